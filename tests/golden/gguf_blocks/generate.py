#!/usr/bin/env python3
"""Blocks of every ggml type with random bits, and their values by PyPI gguf (gguf.quants.dequantize).

For each type T: T.blocks (raw bytes) and T.f32 (little-endian f32). The scales (f16) of the first blocks are ordinary; those of
the last ones are edge cases: zeros, subnormals, the largest, infinities and NaN. Run in this folder; needs numpy and gguf.
"""
import hashlib
import pathlib

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# byte offsets of the f16 scales inside a block
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
EDGES = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], dtype=np.uint16)

rng = np.random.default_rng(20240901)
here = pathlib.Path(__file__).parent
for t in [T.F32, T.F16, T.BF16, *SCALES]:
    values, size = GGML_QUANT_SIZES[t]
    ordinary = max(6, 512 // values)
    blocks = rng.integers(0, 256, (ordinary + len(EDGES), size), dtype=np.uint8)
    if t in SCALES:
        for at in SCALES[t]:
            scales = np.exp(rng.normal(-4, 1.5, ordinary)) * rng.choice([-1, 1], ordinary)
            scales = np.concatenate([scales.astype(np.float16).view(np.uint16), EDGES])
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if t == T.F16:
        blocks[ordinary:] = EDGES.view(np.uint8).reshape(-1, 2)
    with np.errstate(all="ignore"):
        expected = dequantize(blocks.reshape(1, -1), t).astype("<f4").ravel()
    assert expected.size == blocks.shape[0] * values
    (here / f"{t.name}.blocks").write_bytes(blocks.tobytes())
    (here / f"{t.name}.f32").write_bytes(expected.tobytes())

files = sorted(p for p in here.iterdir() if p.suffix in (".blocks", ".f32"))
(here / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files))
