"""Golden values of the distillation losses: PyTorch autograd in float64 on materialised logits.

Run with any PyTorch and safetensors: python generate.py. Writes loss.safetensors, divergences.safetensors (the losses beside KL and
cross-entropy, and mixtures of teachers), inner.safetensors (losses of routers and layers), drawn.safetensors (losses of what the student draws) and
SHA256SUMS beside this file.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
TOKENS, HIDDEN, VOCAB = 23, 12, 97
CASES = [(1.0, 0.0), (1.0, 0.3), (2.0, 0.0), (2.0, 0.25)]  # temperature, weight of the cross-entropy


def sparse_rows(kind, generator, teacher):
    """CSR rows: counts of 50 draws ("sample"), or the five most probable ids with a tail ("topk")."""
    offsets, ids, probabilities, tail = [0], [], [], []
    for row in teacher:
        if kind == "sample":
            drawn = torch.multinomial(row, 50, replacement=True, generator=generator)
            values, counts = torch.unique(drawn, return_counts=True)
            p = counts.double() / 50
            tail.append(0.0)
        else:
            p, values = row.topk(5)
            p = p.float().double()
            tail.append(float(torch.tensor(1 - p.sum().item(), dtype=torch.float32)))
        ids += values.tolist()
        probabilities += p.tolist()
        offsets.append(len(ids))
    return offsets, ids, probabilities, tail


def mixed(z, kl_rows, labels, temperature, ce_weight):
    kl = temperature**2 * kl_rows(torch.log_softmax(z / temperature, -1)).sum()
    ce = torch.nn.functional.cross_entropy(z, labels, reduction="sum")
    return kl, ce, (1 - ce_weight) * kl + ce_weight * ce


def kl(p, q):
    return (torch.xlogy(p, p) - p * q.log()).sum(-1)


def top_k_kl(p, q, k, tail):
    """The k largest of p and one bin of all others; with `tail` the last column is already the sum of some others."""
    ids = p[:, :-1 if tail else None].topk(min(int(k), p.shape[1] - tail), -1)[1]
    named = lambda x: torch.cat([x.gather(-1, ids), 1 - x.gather(-1, ids).sum(-1, keepdim=True)], -1)
    return kl(named(p), named(q))


def entropy_gated(p, q, threshold, tail):
    return torch.where(-torch.xlogy(p, p).sum(-1) > threshold, kl(p, q), kl(q, p))


# What each loss is of two lists of probabilities, by its definition.
SHAPED = {"top-k-kl": top_k_kl, "entropy-gated": entropy_gated}
DIVERGENCES = {
    "forward-kl": lambda p, q, b: torch.xlogy(p, p).sum(-1) - (p * q.log()).sum(-1),
    "reverse-kl": lambda p, q, b: (q * (q.log() - p.log())).sum(-1),
    "jensen-shannon": lambda p, q, b: (b * p * (p.log() - (b * p + (1 - b) * q).log()) + (1 - b) * q * (q.log() - (b * p + (1 - b) * q).log())).sum(-1),
    "total-variation": lambda p, q, b: 0.5 * (p - q).abs().sum(-1),
    "skewed-kl": lambda p, q, a: kl(p, a * p + (1 - a) * q),
    "skewed-reverse-kl": lambda p, q, a: kl(q, (1 - a) * p + a * q),
    "universal": lambda p, q, b: (p.sort(-1, descending=True)[0] - q.sort(-1, descending=True)[0]).abs().sum(-1),
}
# loss, parameter, temperature
DIVERGENCE_CASES = [("forward-kl", 0.0, 1.0), ("reverse-kl", 0.0, 1.0), ("reverse-kl", 0.0, 2.0), ("jensen-shannon", 0.5, 1.0),
                    ("jensen-shannon", 0.1, 2.0), ("jensen-shannon", 0.9, 1.0), ("total-variation", 0.0, 1.0), ("total-variation", 0.0, 2.0),
                    ("skewed-kl", 0.1, 1.0), ("skewed-kl", 0.6, 2.0), ("skewed-reverse-kl", 0.1, 1.0), ("skewed-reverse-kl", 0.6, 2.0),
                    ("entropy-gated", 1.0, 1.0), ("entropy-gated", 2.0, 2.0), ("top-k-kl", 3.0, 1.0), ("top-k-kl", 20.0, 2.0),
                    ("universal", 0.0, 1.0), ("universal", 0.0, 2.0)]
MIXTURE = (0.7, 0.3)


def divergences(given, sparse):
    """Each loss against one teacher, a mixture of two, top-k rows, and a mixture of one with sampled rows; weighted rows."""
    generator = torch.Generator().manual_seed(21)
    other_hidden = torch.randn(TOKENS, HIDDEN + 4, generator=generator).float()
    other_head = torch.randn(VOCAB, HIDDEN + 4, generator=generator).float()
    out = {"other_hidden": other_hidden, "other_head": other_head}
    first = given["teacher_hidden"].double() @ given["teacher_head"].double().T
    second = other_hidden.double() @ other_head.double().T
    weight = given["weight"].double()
    for number, (loss, parameter, temperature) in enumerate(DIVERGENCE_CASES):
        for kind in ("dense", "mixed", "topk", "with-sample"):
            if kind == "with-sample" and loss != "forward-kl" or kind == "topk" and loss == "universal":
                continue
            p = torch.softmax(first / temperature, -1)
            if kind == "mixed":
                p = MIXTURE[0] * p + MIXTURE[1] * torch.softmax(second / temperature, -1)
            if kind == "with-sample":
                offsets, ids, probabilities, _ = sparse["sample"]
                p = MIXTURE[0] * p
                for r in range(TOKENS):
                    span = slice(offsets[r], offsets[r + 1])
                    p[r, ids[span]] += MIXTURE[1] * probabilities[span]
            hidden = given["hidden"].double().requires_grad_()
            head = given["head"].double().requires_grad_()
            q = torch.softmax(hidden @ head.T / temperature, -1)
            if kind == "topk":  # the named ids, and all others as one
                offsets, ids, probabilities, tail = sparse["topk"]
                p = torch.stack([torch.cat([probabilities[offsets[r]:offsets[r + 1]], tail[r:r + 1]]) for r in range(TOKENS)])
                named = torch.stack([q[r, ids[offsets[r]:offsets[r + 1]]] for r in range(TOKENS)])
                q = torch.cat([named, 1 - named.sum(-1, keepdim=True)], -1)
            rows = SHAPED[loss](p, q, parameter, kind == "topk") if loss in SHAPED else DIVERGENCES[loss](p, q, parameter)
            value = temperature**2 * (rows * weight).sum()
            value.backward()
            name = f"{kind}.{number}"
            out[f"{name}.value"] = value.detach().reshape(1)
            out[f"{name}.d_hidden"] = hidden.grad.float()
            out[f"{name}.d_head"] = head.grad.float()
    return out


DRAWN_CASES = [("sampled-reverse-kl", 0.0), ("sampled-reverse-kl", 1e-4), ("sampled-reverse-kl", 0.05), ("reward", 0.0), ("unlikelihood", 0.0)]
GROUP = 4


def drawn(given):
    """Losses of labels that the student drew; their gradient is that of a surrogate whose factors are constant. And advantages of groups of rewards."""
    generator = torch.Generator().manual_seed(23)
    advantage = torch.randn(TOKENS, generator=generator).float()
    rewards = torch.randint(2, (6, GROUP), generator=generator).float()
    rewards[1], rewards[4] = 1, 0  # groups in which all have one reward
    normed = torch.nn.functional.layer_norm(rewards.double(), (GROUP,), eps=0.0)  # of the group's own standard deviation
    out = {"advantage": advantage, "rewards": rewards.flatten(), "advantages": torch.nan_to_num(normed, nan=0.0).float().flatten()}
    out["repeated"] = torch.randint(2, (TOKENS,), generator=generator).float()
    log_p = torch.log_softmax(given["teacher_hidden"].double() @ given["teacher_head"].double().T, -1)
    weight, labels = given["weight"].double(), given["labels"][:, None]
    for number, (loss, threshold) in enumerate(DRAWN_CASES):
        hidden = given["hidden"].double().requires_grad_()
        head = given["head"].double().requires_grad_()
        log_q = torch.log_softmax(hidden @ head.T, -1)
        of_label = log_q.gather(1, labels)[:, 0]
        if loss == "reward":
            value = surrogate = -advantage.double() * of_label
        elif loss == "unlikelihood":
            value = surrogate = -torch.log(1 - of_label.exp()) * out["repeated"].double()
        else:
            excess = (of_label - log_p.gather(1, labels)[:, 0]).detach()
            missed = (log_q.detach().exp() < threshold) & (log_p > log_q.detach())
            kl_of_missed = (log_p.exp() * (log_p - log_q) * missed).sum(-1)
            value, surrogate = excess + kl_of_missed, excess * of_label + kl_of_missed
        (surrogate * weight).sum().backward()
        out[f"{number}.value"] = (value * weight).sum().detach().reshape(1)
        out[f"{number}.d_hidden"] = hidden.grad.float()
        out[f"{number}.d_head"] = head.grad.float()
    return out


def inner():
    """Losses of router scores and layers, of three sequences of eight tokens with weights; gradients of all that is differentiable."""
    generator = torch.Generator().manual_seed(22)
    sequences, length, experts, chosen, width, its_width = 3, 8, 5, 2, 12, 10
    tokens = sequences * length
    normal = lambda *shape: torch.randn(*shape, generator=generator).float()
    out = {"weight": torch.rand(tokens, generator=generator).float()}
    out["weight"][::3] = 0
    for layer in range(2):
        out[f"scores.{layer}"] = normal(tokens, experts)
        out[f"selected.{layer}"] = out[f"scores.{layer}"].topk(chosen, -1)[1].sort(-1)[0].to(torch.int32)
        for part in ("attended", "out"):
            out[f"student.{part}.{layer}"] = normal(tokens, width)
        out[f"projection.{layer}"] = normal(its_width, width)
    for layer in range(3):  # the student's two layers are compared with the teacher's first and third
        for part in ("attended", "out"):
            out[f"teacher.{part}.{layer}"] = normal(tokens, its_width)
    weight = out["weight"].double()

    def router_z(x):
        return sum((torch.logsumexp(x[f"scores.{l}"], -1) ** 2 * weight).sum() for l in range(2)) / 2

    def balance(x):
        total = 0
        for l in range(2):
            share = torch.sigmoid(x[f"scores.{l}"])
            share = share / share.sum(-1, keepdim=True)
            for s in range(sequences):
                rows = slice(s * length, (s + 1) * length)
                w = weight[rows]
                used = torch.nn.functional.one_hot(out[f"selected.{l}"][rows].long(), experts).sum(1).double()
                load = experts / (chosen * w.sum()) * (used * w[:, None]).sum(0)
                mean_share = (share[rows] * w[:, None]).sum(0) / w.sum()
                total = total + w.sum() * (load * mean_share).sum()
        return total / 2

    def layers(x, compare, take):
        total = 0
        for l, other in ((0, 0), (1, 2)):
            student = take(lambda part: x[f"student.{part}.{l}"]) @ x[f"projection.{l}"].T
            teacher = take(lambda part: out[f"teacher.{part}.{other}"].double())
            total = total + (compare(student, teacher) * weight).sum()
        return total / 2

    square = lambda a, b: ((a - b) ** 2).sum(-1) / (b**2).sum(-1)
    losses = {
        "router-z": router_z,
        "balance": balance,
        "hidden-mse": lambda x: layers(x, square, lambda part: part("out")),
        "hidden-cosine": lambda x: layers(x, lambda a, b: 1 - torch.cosine_similarity(a, b, -1), lambda part: part("out")),
        "ffn-mse": lambda x: layers(x, square, lambda part: part("out") - part("attended")),
    }
    inputs = [name for name in out if name.startswith(("scores", "student", "projection"))]
    results = {}
    for loss, value_of in losses.items():
        x = {name: out[name].double().requires_grad_() for name in inputs}
        value = value_of(x)
        value.backward()
        results[f"{loss}.value"] = value.detach().reshape(1)
        for name in inputs:
            if x[name].grad is not None:
                results[f"{loss}.d.{name}"] = x[name].grad.float()
    return out | results


def main():
    generator = torch.Generator().manual_seed(20)
    normal = lambda *shape: torch.randn(*shape, generator=generator).float()
    out = {
        "hidden": normal(TOKENS, HIDDEN),
        "head": normal(VOCAB, HIDDEN),
        "teacher_hidden": normal(TOKENS, HIDDEN),
        "teacher_head": normal(VOCAB, HIDDEN),
        "labels": torch.randint(VOCAB, (TOKENS,), generator=generator),
    }
    teacher_logits = out["teacher_hidden"].double() @ out["teacher_head"].double().T
    rows = {}
    for kind in ("sample", "topk"):
        offsets, ids, p, tail = sparse_rows(kind, generator, torch.softmax(teacher_logits, -1))
        out[f"{kind}.offsets"] = torch.tensor(offsets)
        out[f"{kind}.ids"] = torch.tensor(ids, dtype=torch.int32)
        out[f"{kind}.probabilities"] = torch.tensor(p, dtype=torch.float32)
        out[f"{kind}.tail"] = torch.tensor(tail, dtype=torch.float32)
        rows[kind] = (offsets, ids, out[f"{kind}.probabilities"].double(), out[f"{kind}.tail"].double())

    def sparse(kind):
        offsets, ids, p, tail = rows[kind]

        def kl_rows(log_q):
            terms = []
            for r in range(TOKENS):
                span = slice(offsets[r], offsets[r + 1])
                log_k = log_q[r, ids[span]]
                term = (p[span] * (p[span].log() - log_k)).sum()
                if tail[r] > 0:
                    term = term + tail[r] * (tail[r].log() - torch.log1p(-log_k.exp().sum()))
                terms.append(term)
            return torch.stack(terms)

        return kl_rows

    def dense(temperature):
        log_p = torch.log_softmax(teacher_logits / temperature, -1)
        return lambda log_q: (log_p.exp() * (log_p - log_q)).sum(-1)

    for number, (temperature, ce_weight) in enumerate(CASES):
        for kind in ("sample", "topk", "dense"):
            hidden = out["hidden"].double().requires_grad_()
            head = out["head"].double().requires_grad_()
            kl_rows = dense(temperature) if kind == "dense" else sparse(kind)
            kl, ce, loss = mixed(hidden @ head.T, kl_rows, out["labels"], temperature, ce_weight)
            loss.backward()
            name = f"{kind}.{number}"
            out[f"{name}.sums"] = torch.stack([kl, ce, loss]).detach()
            out[f"{name}.d_hidden"] = hidden.grad.float()
            out[f"{name}.d_head"] = head.grad.float()
    # A weight a token, zeros among them: each row's value and gradient times its weight. After all else, so that the rest stays as it was.
    weight = torch.rand(TOKENS, generator=generator).float()
    weight[::4] = 0
    out["weight"] = weight
    for number, (temperature, ce_weight) in enumerate(CASES):
        for kind in ("sample", "topk", "dense"):
            hidden = out["hidden"].double().requires_grad_()
            head = out["head"].double().requires_grad_()
            z = hidden @ head.T
            kl_rows = dense(temperature) if kind == "dense" else sparse(kind)
            kl = (temperature**2 * kl_rows(torch.log_softmax(z / temperature, -1)) * weight.double()).sum()
            ce = (torch.nn.functional.cross_entropy(z, out["labels"], reduction="none") * weight.double()).sum()
            loss = (1 - ce_weight) * kl + ce_weight * ce
            loss.backward()
            name = f"weighted.{kind}.{number}"
            out[f"{name}.sums"] = torch.stack([kl, ce, loss]).detach()
            out[f"{name}.d_hidden"] = hidden.grad.float()
            out[f"{name}.d_head"] = head.grad.float()
    out["cases"] = torch.tensor(CASES, dtype=torch.float64)

    save_file(out, HERE / "loss.safetensors")
    save_file(divergences(out, rows), HERE / "divergences.safetensors")
    save_file(inner(), HERE / "inner.safetensors")
    save_file(drawn(out), HERE / "drawn.safetensors")
    sums = [f"{hashlib.sha256((HERE / name).read_bytes()).hexdigest()}  {name}\n" for name in ("divergences.safetensors", "drawn.safetensors", "inner.safetensors", "loss.safetensors")]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
