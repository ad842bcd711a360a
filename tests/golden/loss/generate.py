"""Golden values of the distillation losses: PyTorch autograd in float64 on materialised logits.

Run with any PyTorch and safetensors: python generate.py. Writes loss.safetensors, divergences.safetensors (the losses beside KL and
cross-entropy, and mixtures of teachers) and SHA256SUMS beside this file.
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


# What each loss is of two lists of probabilities, by its definition.
DIVERGENCES = {
    "forward-kl": lambda p, q, b: torch.xlogy(p, p).sum(-1) - (p * q.log()).sum(-1),
    "reverse-kl": lambda p, q, b: (q * (q.log() - p.log())).sum(-1),
    "jensen-shannon": lambda p, q, b: (b * p * (p.log() - (b * p + (1 - b) * q).log()) + (1 - b) * q * (q.log() - (b * p + (1 - b) * q).log())).sum(-1),
    "total-variation": lambda p, q, b: 0.5 * (p - q).abs().sum(-1),
}
# loss, parameter, temperature
DIVERGENCE_CASES = [("forward-kl", 0.0, 1.0), ("reverse-kl", 0.0, 1.0), ("reverse-kl", 0.0, 2.0), ("jensen-shannon", 0.5, 1.0),
                    ("jensen-shannon", 0.1, 2.0), ("jensen-shannon", 0.9, 1.0), ("total-variation", 0.0, 1.0), ("total-variation", 0.0, 2.0)]
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
            if kind == "with-sample" and loss != "forward-kl":
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
            value = temperature**2 * (DIVERGENCES[loss](p, q, parameter) * weight).sum()
            value.backward()
            name = f"{kind}.{number}"
            out[f"{name}.value"] = value.detach().reshape(1)
            out[f"{name}.d_hidden"] = hidden.grad.float()
            out[f"{name}.d_head"] = head.grad.float()
    return out


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
    sums = [f"{hashlib.sha256((HERE / name).read_bytes()).hexdigest()}  {name}\n" for name in ("divergences.safetensors", "loss.safetensors")]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
