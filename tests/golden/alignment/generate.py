"""Golden values of the losses towards a teacher of another tokenizer: PyTorch autograd in float64, from the definitions.

Every span is written out as two lists of probabilities of the same texts (merged-kl), or as two sorted lists (universal, Boizard et al.
2024, section 3). Run with any PyTorch and safetensors: python generate.py. Writes alignment.safetensors and SHA256SUMS beside this file.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROWS, HIDDEN, VOCAB = 17, 7, 29
ITS_ROWS, ITS_HIDDEN, ITS_VOCAB = 19, 5, 37
# Rows of the student [a, b), of the teacher [c, d). Rows 0, 10 and the last of both are in no span.
SPANS = [(1, 2, 0, 1), (2, 4, 1, 2), (4, 5, 2, 5), (5, 8, 5, 7), (8, 9, 7, 8), (9, 10, 8, 9), (11, 12, 10, 11), (12, 14, 11, 13), (14, 15, 13, 14), (15, 16, 14, 17)]
# weight of merged-kl, of universal, of the cross-entropy
CASES = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.3, 0.2)]


def merged(q_rows, p_rows, labels, its_labels, span, common):
    """KL over: the pairs that are not a beginning of the span's text, the span's text, and everything else."""
    a, b, c, d = span
    s, t = labels[a:b], its_labels[c:d]
    q, p = q_rows[a], p_rows[c]
    q_text = torch.stack([q_rows[a + k, s[k]] for k in range(len(s))]).prod()
    p_text = torch.stack([p_rows[c + k, t[k]] for k in range(len(t))]).prod()
    if len(s) == 1 and len(t) == 1 and (s[0], t[0]) in common:
        pairs = [pair for pair in common if pair != (s[0], t[0])]
    else:
        pairs = [pair for pair in common if pair[0] != s[0] and pair[1] != t[0]]
    q_list = torch.stack([q[x] for x, _ in pairs] + [q_text])
    p_list = torch.stack([p[y] for _, y in pairs] + [p_text])
    q_list = torch.cat([q_list, 1 - q_list.sum(0, keepdim=True)])
    p_list = torch.cat([p_list, 1 - p_list.sum(0, keepdim=True)])
    return (p_list * (p_list.log() - q_list.log())).sum()


def universal(q_rows, p_rows, span):
    q, p = q_rows[span[0]], p_rows[span[2]]
    longest = max(len(q), len(p))
    q, p = (torch.cat([x, torch.zeros(longest - len(x), dtype=x.dtype)]).sort(descending=True)[0] for x in (q, p))
    return (q - p).abs().sum()


def main():
    generator = torch.Generator().manual_seed(12)
    normal = lambda *shape: torch.randn(*shape, generator=generator).float()
    out = {"hidden": normal(ROWS, HIDDEN), "head": normal(VOCAB, HIDDEN), "teacher_hidden": normal(ITS_ROWS, ITS_HIDDEN),
           "teacher_head": normal(ITS_VOCAB, ITS_HIDDEN)}
    common = [(s, int(t)) for s, t in zip(sorted(torch.randperm(VOCAB, generator=generator)[:16].tolist()),
                                          torch.randperm(ITS_VOCAB, generator=generator)[:16])]
    labels = torch.randint(VOCAB, (ROWS,), generator=generator).tolist()
    its_labels = torch.randint(ITS_VOCAB, (ITS_ROWS,), generator=generator).tolist()
    for number, (a, _, c, _) in enumerate(SPANS):  # most of the spans of one token each are a pair
        if number in (0, 4, 6):
            labels[a], its_labels[c] = common[number]
    labels[2], its_labels[1] = common[9][0], common[10][1]  # both first labels are in pairs, of other texts
    weight = torch.rand(ROWS, generator=generator).float()
    weight[6] = 0
    out |= {"labels": torch.tensor(labels), "teacher_labels": torch.tensor(its_labels), "weight": weight, "spans": torch.tensor(SPANS).reshape(-1),
            "common": torch.tensor(common).reshape(-1).to(torch.int32), "cases": torch.tensor(CASES).double().reshape(-1)}
    p_rows = torch.softmax(out["teacher_hidden"].double() @ out["teacher_head"].double().T, -1)
    for number, (kl_weight, universal_weight, ce_weight) in enumerate(CASES):
        hidden, head = (out[name].double().requires_grad_() for name in ("hidden", "head"))
        q_rows = torch.softmax(hidden @ head.T, -1)
        of_span = [weight[a:b].double().min() for a, b, _, _ in SPANS]
        kl = sum(w * merged(q_rows, p_rows, labels, its_labels, span, common) for w, span in zip(of_span, SPANS))
        sorted_lists = sum(w * universal(q_rows, p_rows, span) for w, span in zip(of_span, SPANS))
        ce = -(weight.double() * torch.stack([q_rows[r, labels[r]] for r in range(ROWS)]).log()).sum()
        (kl_weight * kl + universal_weight * sorted_lists + ce_weight * ce).backward()
        out[f"{number}.values"] = torch.stack([ce, kl, sorted_lists]).detach()
        out[f"{number}.d_hidden"], out[f"{number}.d_head"] = hidden.grad.float(), head.grad.float()
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "alignment.safetensors")
    (HERE / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(HERE.glob("*.safetensors"))))


if __name__ == "__main__":
    main()
