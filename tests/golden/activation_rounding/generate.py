"""Golden data for the rounding of activations, made by compressed-tensors (versions in README.md): what a quantised Linear's input becomes."""

import hashlib
import pathlib

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(99)

x = torch.randn(16, 256, generator=generator) * torch.logspace(-3, 2, 16)[:, None]
x[:, 17] *= 60  # an outlier channel
x[1] = 0
x[2] = x[2].abs()
x[3, :8] = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, -127.5, 126.5])
x[3, 8:] = 0
x[4] = torch.randn(256, generator=generator) * 1e-30

CASES = {
    "int8_token": dict(type="int", strategy="token", symmetric=True, dynamic=True),
    "int8_token_asymmetric": dict(type="int", strategy="token", symmetric=False, dynamic=True),
    "int8_group": dict(type="int", strategy="group", group_size=128, symmetric=True, dynamic=True),
    "fp8_token": dict(type="float", strategy="token", symmetric=True, dynamic=True),
    "mxfp8": dict(type="float", strategy="group", group_size=32, symmetric=True, dynamic=True, scale_dtype=torch.uint8),
    "fp8_group": dict(type="float", strategy="group", group_size=128, symmetric=True, dynamic=True),
}
tensors = {"x": x}
for name, options in CASES.items():
    arguments = QuantizationArgs(num_bits=8, **options)
    value = x[None] if options["strategy"] == "token" else x  # the peer's token is a row of [batch, length, in]
    scale, zero_point = compute_dynamic_scales_and_zp(value=value, args=arguments, module=torch.nn.Linear(1, 1))
    tensors[name] = fake_quantize(x=value, scale=scale, zero_point=zero_point, args=arguments).reshape(x.shape).contiguous()
for name, scale, zero_point in (("int8_static", 0.031, 0), ("int8_static_asymmetric", 0.07, -41), ("fp8_static", 0.011, 0)):
    arguments = QuantizationArgs(num_bits=8, type="float" if name.startswith("fp8") else "int", strategy="tensor",
                                 symmetric=zero_point == 0, dynamic=False)
    tensors[name] = fake_quantize(x=x, scale=torch.tensor([scale]), zero_point=torch.tensor([zero_point], dtype=arguments.zp_dtype),
                                  args=arguments).contiguous()
    tensors[name + ".grid"] = torch.tensor([scale, float(zero_point)])

save_file(tensors, here / "rounded.safetensors")
digest = hashlib.sha256((here / "rounded.safetensors").read_bytes()).hexdigest()
(here / "SHA256SUMS").write_text(f"{digest}  rounded.safetensors\n")
