"""Golden data for GPTQ and SmoothQuant, written from the papers with PyTorch in f64; nothing of this project takes part.

GPTQ: Frantar et al. 2022, algorithm 1, in the order of IST-DASLab's gptq.py: dampening, Cholesky, inverse, Cholesky of the inverse
(upper), column after column. SmoothQuant: Xiao et al. 2022, equation 4.
"""

import hashlib
import pathlib

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(20261124)


def normal(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gptq(weight, hessian, scales, group, dampening, act_order):
    weight, hessian = weight.clone(), hessian.clone()
    columns = weight.shape[1]
    order = torch.argsort(torch.diag(hessian), descending=True, stable=True) if act_order else torch.arange(columns)
    weight, hessian = weight[:, order], hessian[order][:, order]
    hessian += dampening * torch.mean(torch.diag(hessian)) * torch.eye(columns, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros_like(weight)
    losses = torch.zeros_like(weight)
    for i in range(columns):
        scale = scales[:, order[i] // group]
        codes[:, i] = torch.clamp(torch.round(weight[:, i] / scale), -127, 127)
        error = (weight[:, i] - codes[:, i] * scale) / upper[i, i]
        losses[:, i] = error**2
        weight[:, i:] -= error[:, None] * upper[i, i:][None, :]
    result = torch.zeros_like(codes)
    result[:, order] = codes
    return result.to(torch.int8), losses.sum()


def main():
    tensors = {}
    for case, (rows, columns, group, dampening, act_order) in {
        "plain": (24, 96, 96, 0.01, 0),
        "groups": (9, 128, 64, 0.01, 0),
        "ordered": (17, 110, 110, 0.05, 1),
    }.items():
        mix = normal(columns, columns) * torch.logspace(0, -2, columns, dtype=torch.float64)  # correlated, of uneven strength
        x = (normal(512, columns) @ mix).float().double()
        hessian = (x.T @ x / x.shape[0]).float().double()
        weight = normal(rows, columns).float().double()
        parts = weight.reshape(rows, -1, group)
        scales = (parts.abs().amax(-1) / 127).float().double()
        codes, loss = gptq(weight, hessian, scales, group, dampening, act_order)
        tensors |= {
            f"{case}.weight": weight.float(), f"{case}.hessian": hessian.float(), f"{case}.scales": scales.float().contiguous(),
            f"{case}.codes": codes.contiguous(), f"{case}.loss": loss.reshape(1),
            f"{case}.options": torch.tensor([dampening, act_order], dtype=torch.float64),
        }
    amax_x, amax_w = normal(64).abs().float() * 10, normal(64).abs().float()
    amax_x[3], amax_w[5] = 0.0, 0.0
    tensors |= {"smooth.amax_x": amax_x, "smooth.amax_w": amax_w}
    for strength in (0.0, 0.3, 0.5, 0.85, 1.0):
        factors = amax_x.double().clamp(min=1e-5) ** strength / amax_w.double().clamp(min=1e-5) ** (1 - strength)
        tensors[f"smooth.{strength}"] = factors / torch.exp(torch.mean(torch.log(factors)))
    save_file(tensors, here / "calibration.safetensors")
    digest = hashlib.sha256((here / "calibration.safetensors").read_bytes()).hexdigest()
    (here / "SHA256SUMS").write_text(f"{digest}  calibration.safetensors\n")


if __name__ == "__main__":
    main()
