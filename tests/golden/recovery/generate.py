"""Golden values of the ridge solve behind `recover`: torch.linalg.lstsq in float64 on the whole system, rows of all tokens stacked.

Run with any PyTorch and safetensors: python generate.py. Writes recovery.safetensors and SHA256SUMS beside this file.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
TOKENS, SHARED, WIDTH, EXPERTS, OUTPUTS = 400, 12, 5, 4, 7


def main():
    generator = torch.Generator().manual_seed(11)
    normal = lambda *shape: torch.randn(*shape, generator=generator).float()
    out = {"shared": normal(TOKENS, SHARED), "residual": normal(TOKENS, OUTPUTS)}
    features = [out["shared"]]
    chosen = torch.stack([torch.randperm(EXPERTS, generator=generator)[:2] for _ in range(TOKENS)])
    chosen[:, :][chosen == EXPERTS - 1] = 0  # the last expert is chosen three times only, by the first tokens
    chosen[:3, 0] = EXPERTS - 1
    for e in range(EXPERTS):
        rows = (chosen == e).any(1).nonzero().flatten()
        out[f"expert.{e}.rows"] = rows
        out[f"expert.{e}.values"] = normal(len(rows), WIDTH)
        column = torch.zeros(TOKENS, WIDTH)
        column[rows] = out[f"expert.{e}.values"]
        features.append(column)
    residual = out["residual"].double()
    for name, used in (("all", EXPERTS + 1), ("kept", EXPERTS)):
        a = torch.cat(features[:used], 1).double()
        for ridge in (0.0, 0.05):
            if name == "all" and ridge == 0:
                continue  # three rows do not determine five columns
            penalty = ridge * (a * a).sum(0).mean()
            stacked = torch.cat([a, penalty.sqrt() * torch.eye(a.shape[1], dtype=torch.float64)])
            target = torch.cat([residual, torch.zeros(a.shape[1], OUTPUTS, dtype=torch.float64)])
            change = torch.linalg.lstsq(stacked, target).solution
            out[f"{name}.{ridge}.change"] = change
            out[f"{name}.{ridge}.square"] = ((residual - a @ change) ** 2).sum().reshape(1)
    out["square"] = (residual**2).sum().reshape(1)
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "recovery.safetensors")
    digest = hashlib.sha256((HERE / "recovery.safetensors").read_bytes()).hexdigest()
    (HERE / "SHA256SUMS").write_text(f"{digest}  recovery.safetensors\n")


if __name__ == "__main__":
    main()
