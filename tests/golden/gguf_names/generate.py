#!/usr/bin/env python3
"""What PyPI gguf (which llama.cpp's converter uses) calls the tensors of a Hugging Face checkpoint: names.json {arch: {gguf: hf}}.

Only modules that the architecture's transformers class has. Experts are stacked in GGUF; here stands the name of expert 0.
Run in this folder; needs gguf.
"""
import hashlib
import json
import pathlib

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

here = pathlib.Path(__file__).parent
dense = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
         "input_layernorm", "post_attention_layernorm"]
biases = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
qk_norm = ["self_attn.q_norm", "self_attn.k_norm"]
moe = ["mlp.gate", *(f"mlp.{kind}.{p}_proj" for kind in ("experts", "shared_experts") for p in ("gate", "up", "down"))]
modules = {MODEL_ARCH.LLAMA: (dense, biases), MODEL_ARCH.QWEN2: (dense, biases), MODEL_ARCH.QWEN3: (dense + qk_norm, []),
           MODEL_ARCH.GLM4_MOE: (dense + qk_norm + moe, biases)}
names = {}
for arch, (weights, with_bias) in modules.items():
    table = get_tensor_name_map(arch, 12)
    gguf_name = lambda hf: table.get_name(hf) or exit(f"gguf has no name for {hf} of {arch.name}")
    of = names[MODEL_ARCH_NAMES[arch]] = {}
    for hf in ["model.embed_tokens", "model.norm", "lm_head", *(f"model.layers.11.{m}" for m in weights)]:
        of[gguf_name(hf) + ".weight"] = hf.replace("mlp.experts.", "mlp.experts.0.") + ".weight"
    for module in with_bias:
        of[gguf_name(f"model.layers.11.{module}") + ".bias"] = f"model.layers.11.{module}.bias"
    if arch == MODEL_ARCH.GLM4_MOE:  # the converter renames e_score_correction_bias to e_score_correction.bias first
        of[gguf_name("model.layers.11.mlp.gate.e_score_correction") + ".bias"] = "model.layers.11.mlp.gate.e_score_correction_bias"
(here / "names.json").write_text(json.dumps(names, indent=1) + "\n")
(here / "SHA256SUMS").write_text(f"{hashlib.sha256((here / 'names.json').read_bytes()).hexdigest()}  names.json\n")
