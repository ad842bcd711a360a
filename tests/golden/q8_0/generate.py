"""Q8_0 blocks by llama.cpp and by PyPI gguf (versions in README.md).

    generate.py /path/to/xllamacpp.abi3.so      a library that exports llama.cpp's C API

weights.safetensors   F32 and BF16 weights: normal, wide spread, ties at halves, zero blocks, blocks whose scale is subnormal or zero in
                      f16, the largest scale, signs of zero
blocks.safetensors    U8, by ggml_quantize_chunk; asserted to equal gguf.quants.quantize
"""

import ctypes
import hashlib
import pathlib
import sys

import numpy
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(20250312)
library = ctypes.CDLL(sys.argv[1])
library.ggml_quantize_chunk.restype = ctypes.c_size_t
library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]


def normal(*shape, scale=0.02):
    return torch.randn(*shape, generator=generator) * scale


ties = torch.cat([torch.tensor([127.0]), torch.arange(-15, 16) + 0.5]).repeat(9, 1)
ties[1:] *= torch.tensor([2.0**-20, 2.0**10, 3.0, 1 / 3, 1e-3, 0.7, 2.0**-3, 1.0000001])[:, None]
edges = torch.stack([
    torch.zeros(32),
    -torch.zeros(32),
    normal(32, scale=1e-7),  # d is subnormal in f16, or zero
    normal(32, scale=1e-9),
    normal(32, scale=1e-30),
    normal(32, scale=2e6).clamp(-8.3e6, 8.3e6),
    torch.linspace(-8.32e6, 8.32e6, 32),
    torch.full((32,), 1e-44),  # 1 / d is infinite
    normal(32, scale=1e-37),  # d is subnormal, 1 / d is not infinite
])
weights = {
    "normal.weight": normal(24, 288),
    "half.weight": normal(16, 96).bfloat16(),
    "wide.weight": normal(8, 320) * torch.exp(normal(8, 320, scale=3.0)),
    "long.weight": normal(3, 1024).bfloat16(),
    "ties.weight": ties,
    "more_ties.weight": torch.cat([torch.full((254, 1), 127.0), (torch.arange(-127, 127) + 0.5)[:, None].repeat(1, 31)], dim=1),
    "edges.weight": edges,
}
blocks = {}
for name, weight in weights.items():
    x = numpy.ascontiguousarray(weight.float().numpy())
    rows, columns = x.shape
    out = numpy.zeros((rows, columns // 32 * 34), dtype=numpy.uint8)
    written = library.ggml_quantize_chunk(8, x.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.nbytes
    with numpy.errstate(all="ignore"):
        peer = quantize(x, GGMLQuantizationType.Q8_0)
    # gguf divides by an infinite 1 / d in two of the edge blocks; numpy and C differ in what they cast NaN and infinity to.
    same = (peer == out).all(axis=1)
    assert same.all() or (name == "edges.weight" and not same[7] and same.sum() >= rows - 1), (name, same)
    blocks[name] = torch.from_numpy(out)
save_file(weights, here / "weights.safetensors")
save_file(blocks, here / "blocks.safetensors")
names = ["weights.safetensors", "blocks.safetensors"]
sums = [f"{hashlib.sha256((here / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
(here / "SHA256SUMS").write_text("".join(sums))
