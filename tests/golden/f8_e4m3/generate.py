#!/usr/bin/env python3
"""Codes that PyTorch gives each of the 65,536 bf16 values in float8_e4m3fn.

generate.py [FOLDER]; needs torch. See README.md for the version the committed file was made with.
"""
import pathlib
import sys

import torch

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
values = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
# One at a time: the definition, not the vectorised loop.
codes = torch.tensor([v.to(torch.float32).to(torch.float8_e4m3fn).view(torch.uint8).item() for v in values], dtype=torch.uint8)
(folder / "codes_of_bf16.u8").write_bytes(bytes(codes.tolist()))
