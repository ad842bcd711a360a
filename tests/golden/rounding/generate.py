"""Codes of all bf16 numbers, and of f32 numbers around every tie, by torch's own casts (versions in README.md).

bf16.json    SHA-256 of 65,536 codes, one byte for each bf16 bit pattern, infinities and NaN given as zero: "float8_e4m3fn" and "int8",
             each at several scales (as f32 bits): the quotient x / scale in f32, clamped, then cast or rounded by torch
             "e4m3_cast": the same without a scale and without touching infinities and NaN: clamp and cast alone, NaN kept
f32.safetensors   x F32 [n] and code U8 [n]: every code of E4M3, every midpoint of two codes, and their nearest floats
"""

import hashlib
import json
import pathlib

import numpy
import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max

bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
every = bits.view(torch.bfloat16).float()
finite = torch.where(torch.isfinite(every), every, torch.zeros(()))


def digest(codes):
    return hashlib.sha256(codes.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def scale_of(bits):
    return torch.tensor([bits], dtype=torch.int32).view(torch.float32)


# Powers of two, thirds, what amax / 448 and amax / 127 give, the least and nearly the largest normal.
scales = [torch.tensor([s], dtype=torch.float32).view(torch.int32).item() for s in (1.0, 0.5, 2**-7, 1 / 3, 3.1e-5, 7.25, 0.02 / 448, 0.0371 / 127)]
scales += [0x00800000, 0x7B000000, 0x3C010204]
found = {"float8_e4m3fn": {}, "int8": {}}
for s in scales:
    quotient = finite / scale_of(s)
    found["float8_e4m3fn"][str(s)] = digest(quotient.clamp(-LARGEST, LARGEST).to(E4M3))
    found["int8"][str(s)] = digest(torch.round(quotient.clamp(-127, 127)).to(torch.int8))
found["e4m3_cast"] = digest(every.clamp(-LARGEST, LARGEST).to(E4M3))
(here / "bf16.json").write_text(json.dumps(found, indent=1) + "\n")

codes = torch.arange(127, dtype=torch.uint8)  # without NaN
values = codes.view(E4M3).float()
middles = (values[1:] + values[:-1]) / 2  # exact in f32
points = torch.cat([values, middles, torch.tensor([448.0, 449.0, 464.0, 480.0, 1e30, 2.0**-10, 2.0**-11, 1e-40])])
up, down = torch.nextafter(points, torch.tensor(numpy.inf)), torch.nextafter(points, torch.tensor(-numpy.inf))
x = torch.cat([points, up, down])
x = torch.cat([x, -x])
save_file({"x": x, "code": x.clamp(-LARGEST, LARGEST).to(E4M3).view(torch.uint8)}, here / "f32.safetensors")

names = ["bf16.json", "f32.safetensors"]
sums = [f"{hashlib.sha256((here / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
(here / "SHA256SUMS").write_text("".join(sums))
