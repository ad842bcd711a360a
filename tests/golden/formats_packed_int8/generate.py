#!/usr/bin/env python3
"""Two int8 weights as compressed-tensors packs them (pack-quantized, per channel and per group of 8), and what it makes of them.

model.safetensors and config.json are a checkpoint; expected.safetensors holds the same weights decompressed by
compressed-tensors' own PackedQuantizationCompressor. Run in this folder; needs torch, safetensors and compressed-tensors.
"""
import hashlib
import json
import pathlib

import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(7)
schemes = {
    "model.layers.0.mlp.down_proj": QuantizationScheme(targets=["re:.*down_proj$"], weights=QuantizationArgs(num_bits=8, type="int", strategy="channel")),
    "model.layers.0.mlp.up_proj": QuantizationScheme(targets=["re:.*up_proj$"], weights=QuantizationArgs(num_bits=8, type="int", strategy="group", group_size=8)),
}
stored, expected = {"model.norm.weight": torch.randn(5).to(torch.bfloat16)}, {}
expected["model.norm.weight"] = stored["model.norm.weight"].float()
for (module, scheme), (rows, columns) in zip(schemes.items(), [(6, 11), (3, 24)]):  # 11 columns: a padded word
    weight = torch.randn(rows, columns)
    groups = weight.reshape(rows, -1, scheme.weights.group_size or columns)
    scale = groups.abs().amax(-1) / 127.5
    packed = PackedQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    assert packed["weight_packed"].dtype == torch.int32 and set(packed) == {"weight_packed", "weight_scale", "weight_shape"}
    stored |= {f"{module}.{k}": v.contiguous() for k, v in packed.items()}
    expected[f"{module}.weight"] = PackedQuantizationCompressor.decompress(packed, scheme)["weight"].contiguous()

save_file(stored, here / "model.safetensors", metadata={"format": "pt"})
save_file(expected, here / "expected.safetensors")
groups = {f"group_{i}": json.loads(s.model_dump_json()) for i, s in enumerate(schemes.values())}
config = {"model_type": "llama", "quantization_config": {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "config_groups": groups}}
(here / "config.json").write_text(json.dumps(config, indent=1) + "\n")
names = ["config.json", "expected.safetensors", "model.safetensors"]
(here / "SHA256SUMS").write_text("".join(f"{hashlib.sha256((here / n).read_bytes()).hexdigest()}  {n}\n" for n in names))
