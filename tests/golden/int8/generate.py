"""Golden data for int8 per channel, made by PyTorch and compressed-tensors (versions in README.md).

weights.safetensors   dense weights, F32 and BF16, with ragged widths, ties, zero rows and one tiny row
packed.safetensors    what compressed-tensors' pack-quantized compressor makes of them, at scale = absmax / 127 in f32
"""

import hashlib
import pathlib

import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(20240607)


def normal(*shape, scale=0.02):
    return torch.randn(*shape, generator=generator) * scale


weights = {
    "wide.weight": normal(24, 288),
    "ragged.weight": normal(9, 70, scale=3.0),
    "narrow.weight": normal(5, 3),
    "column.weight": normal(7, 1),
    "half.weight": normal(16, 96).bfloat16(),
}
# Every code and every tie between two codes: with 127 in the row the scale is exactly one.
weights["ties.weight"] = torch.cat([torch.arange(-127, 128) + 0.0, torch.arange(-126, 127) + 0.5]).repeat(2, 1)
weights["ties.weight"][1] *= 2.0**-20
weights["zeros.weight"] = torch.zeros(3, 40)
weights["zeros.weight"][1, 5] = 1e-39  # its scale would be subnormal: taken for a row of zeros

scheme = QuantizationScheme(
    targets=["Linear"], weights=QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
)
packed = {}
for name, weight in weights.items():
    x = weight.float()
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    state = PackedQuantizationCompressor.compress({"weight": x, "weight_scale": scale}, scheme)
    for part, tensor in state.items():
        packed[name.removesuffix("weight") + part] = tensor.contiguous()

save_file(weights, here / "weights.safetensors")
save_file(packed, here / "packed.safetensors")
names = ["weights.safetensors", "packed.safetensors"]
sums = [f"{hashlib.sha256((here / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
(here / "SHA256SUMS").write_text("".join(sums))
