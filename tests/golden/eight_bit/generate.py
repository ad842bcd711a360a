"""Weights and what compressed-tensors makes of them in its 8-bit formats (versions in README.md).

weights.safetensors        BF16 and F32 weights: ragged widths, a single row, a single column, zero rows, tiny rows, ties, values at the
                           largest code, outliers
<scheme>.safetensors       codes by compressed-tensors' own compressors, at float32 scales: amax / 127 or amax / 448 where the peer would
                           divide by 127.5 or 448 (its observer's choice; the compressor takes the scale it is given), for mxfp8
                           the peer's own generate_mx_scales. Scales that would be subnormal are 1, as those of zeros are.
<scheme>.json              the config group, parsed and completed by compressed-tensors' own model
activations.json           input scales and zero points by calculate_qparams, for ranges (least, largest)
"""

import hashlib
import json
import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(20250311)


def normal(*shape, scale=0.02):
    return torch.randn(*shape, generator=generator) * scale


weights = {
    "square.weight": normal(130, 256).bfloat16(),
    "wide.weight": normal(3, 384).bfloat16(),
    "ragged.weight": normal(131, 200, scale=3.0),
    "row.weight": normal(1, 160).bfloat16(),
    "column.weight": normal(7, 1),
    "narrow.weight": normal(5, 33),
    "huge.weight": normal(4, 128, scale=1e30),
    "outlier.weight": normal(8, 128).bfloat16(),
}
weights["outlier.weight"][::2, 17] = 3.0
# Every code and every tie between two codes of both types, at a scale of exactly one (127 and 448 stand in the rows).
ints = torch.cat([torch.arange(-127, 128) + 0.0, torch.arange(-126, 127) + 0.5])
weights["int_ties.weight"] = torch.nn.functional.pad(ints, (0, 4)).repeat(2, 1)
weights["int_ties.weight"][1] *= 2.0**-20
codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
floats = torch.cat([codes, (codes[1:] + codes[:-1]) / 2])
floats = torch.nn.functional.pad(torch.cat([floats, -floats]), (0, 6))
weights["float_ties.weight"] = torch.stack([floats, floats * 2.0**-30])
weights["zeros.weight"] = torch.zeros(4, 128)
weights["zeros.weight"][1, 5] = 1e-39  # its scale would be subnormal: taken for a row of zeros
weights["zeros.weight"][3] = normal(128)


def channel_amax(x):
    return x.abs().amax(dim=1, keepdim=True)


def group_amax(size):
    return lambda x: x.abs().unflatten(1, (-1, size)).amax(dim=2)


def block_amax(x):
    rows, columns = x.shape
    padded = torch.nn.functional.pad(x, (0, -columns % 128, 0, -rows % 128))
    return padded.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).abs().amax(dim=(1, 3))


def normal_scale(amax, largest):
    scale = amax / largest
    return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


SCHEMES = {
    "int8-g128": ("pack-quantized", {"weights": QuantizationArgs(num_bits=8, strategy="group", group_size=128)}, group_amax(128), 127, 128),
    "w8a8": ("int-quantized", preset_name_to_scheme("W8A8", ["Linear"]), channel_amax, 127, 1),
    "fp8": ("float-quantized", preset_name_to_scheme("FP8_DYNAMIC", ["Linear"]), channel_amax, 448, 1),
    "fp8-block": ("float-quantized", preset_name_to_scheme("FP8_BLOCK", ["Linear"]), block_amax, 448, 1),
    "mxfp8": ("mxfp8-quantized", preset_name_to_scheme("MXFP8", ["Linear"]), group_amax(32), None, 32),
}
names = ["weights.safetensors", "activations.json"]
save_file(weights, here / "weights.safetensors")
for name, (format, scheme, amax, largest, divisor) in SCHEMES.items():
    if isinstance(scheme, dict):
        scheme = QuantizationScheme(targets=["Linear"], **scheme)
    made = {}
    for weight_name, weight in weights.items():
        x = weight.float()
        if x.shape[1] % divisor:
            continue
        if largest is None:
            most = amax(x)
            scale, _ = calculate_qparams(-most, most, scheme.weights)
        else:
            scale = normal_scale(amax(x), largest)
        state = BaseCompressor.load_from_registry(format).compress({"weight": x, "weight_scale": scale}, scheme)
        for part, tensor in state.items():
            made[weight_name.removesuffix("weight") + part] = tensor.contiguous()
    save_file(made, here / f"{name}.safetensors")
    scheme.format = format
    (here / f"{name}.json").write_text(scheme.model_dump_json(indent=1) + "\n")
    names += [f"{name}.safetensors", f"{name}.json"]

activations = []
for least, largest in [(-3.0, 5.0), (-5.25, 1.0), (0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-1e-6, 3e4), (-0.1, 0.1)]:
    for symmetric in (True, False):
        args = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=symmetric)
        scale, zero = calculate_qparams(torch.tensor([least]), torch.tensor([largest]), args)
        activations.append({"least": least, "largest": largest, "symmetric": symmetric,
                            "scale_bits": scale.view(torch.int32).item(), "zero_point": int(zero.item())})
(here / "activations.json").write_text(json.dumps(activations, indent=1) + "\n")
sums = [f"{hashlib.sha256((here / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
(here / "SHA256SUMS").write_text("".join(sums))
