#!/usr/bin/env python3
"""One tensor of every dtype that PyPI safetensors writes from torch, and its values as f32 by torch.

The 8-bit floats are there with all 256 codes, the 16-bit ones with random bits and edge cases. Types below a byte are in packed.safetensors: F4 as torch writes it; F6, which torch lacks, in a
header that safetensors reads. Run in this folder; needs torch, numpy and safetensors.
"""
import hashlib
import json
import pathlib

import safetensors
import torch
from safetensors.torch import save, save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(11)
codes = torch.arange(256, dtype=torch.uint8)
words = torch.randint(-(2**15), 2**15, (200,), dtype=torch.int16)
words[:8] = torch.tensor([0, -(2**15), 1, 0x7BFF, 0x7C00, 0x7E00, 0x0400, 0x03FF])
stored = {t: codes.view(getattr(torch, d)) for t, d in [
    ("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
    ("F8_E5M2FNUZ", "float8_e5m2fnuz"), ("F8_E8M0", "float8_e8m0fnu")]}
stored |= {"F16": words.view(torch.float16), "BF16": words.view(torch.bfloat16), "F32": torch.randn(5), "F64": torch.randn(5, dtype=torch.float64),
           "BOOL": torch.tensor([True, False]), "U8": codes.clone(), "I8": codes.view(torch.int8), "U16": words.view(torch.uint16), "I16": words,
           "I32": torch.tensor([2**31 - 1, -5, 16777217], dtype=torch.int32), "U32": torch.tensor([2**32 - 1, 5], dtype=torch.uint32),
           "I64": torch.tensor([2**62 + 1, -(2**63)]), "U64": torch.tensor([2**64 - 1, 3], dtype=torch.uint64)}
stored = {k: v.clone() for k, v in stored.items()}  # safetensors refuses tensors that share memory
save_file(stored | {"C64": torch.tensor([1 + 2j], dtype=torch.complex64)}, here / "model.safetensors")
save_file({k: v.to(torch.float32) for k, v in stored.items()}, here / "expected.safetensors")
written = dict(safetensors.deserialize(save({"F4": codes[:12].clone().view(torch.float4_e2m1fn_x2).reshape(4, -1)})))["F4"]
packed = {"F4": (written["shape"], bytes(written["data"])), "F6_E2M3": ([4, 4], bytes(codes[12:24].tolist())), "F6_E3M2": ([8], bytes(codes[24:30].tolist()))}
header, data = {}, b""
for name, (shape, values) in packed.items():
    header[name] = {"dtype": name, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
    data += values
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
content = len(text).to_bytes(8, "little") + text + data
read = dict(safetensors.deserialize(content))
assert {n: (t["dtype"], t["shape"], bytes(t["data"])) for n, t in read.items()} == {n: (n, *t) for n, t in packed.items()}
(here / "packed.safetensors").write_bytes(content)
names = ["expected.safetensors", "model.safetensors", "packed.safetensors"]
(here / "SHA256SUMS").write_text("".join(f"{hashlib.sha256((here / n).read_bytes()).hexdigest()}  {n}\n" for n in names))
