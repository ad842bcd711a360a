#!/usr/bin/env python3
"""What PyPI gguf (which llama.cpp's converter uses) calls the tensors of a Hugging Face checkpoint: names.json {model type: {gguf: hf}}.

Only modules that the model's transformers class has. Experts are stacked in GGUF; here stands the name of expert 0. What the
converter renames or splits before it asks for the name stands in `renamed`, as conversion/*.py of llama.cpp does it.
Run in this folder; needs gguf.
"""
import hashlib
import json
import pathlib

from gguf import MODEL_ARCH, get_tensor_name_map

here = pathlib.Path(__file__).parent
mlp = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
norms = ["self_attn.o_proj", "input_layernorm", "post_attention_layernorm"]
attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", *norms]
biases = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
qk_norm = ["self_attn.q_norm", "self_attn.k_norm"]
moe = ["mlp.gate", *(f"mlp.experts.{p}_proj" for p in ("gate", "up", "down"))]
shared = [f"mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")]
latent = ["self_attn.q_a_proj", "self_attn.q_a_layernorm", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm",
          "self_attn.k_b_proj", "self_attn.v_b_proj", *norms]
next_token = ["eh_proj", "enorm", "hnorm", "embed_tokens", "shared_head.head", "shared_head.norm"]
models = {  # architecture, modules with a weight, modules with a bias
    "llama": (MODEL_ARCH.LLAMA, attention + mlp, biases),
    "mixtral": (MODEL_ARCH.LLAMA, [*attention, "block_sparse_moe.gate", *(f"block_sparse_moe.experts.w{i}" for i in (1, 2, 3))], []),
    "qwen2": (MODEL_ARCH.QWEN2, attention + mlp, biases),
    "qwen3": (MODEL_ARCH.QWEN3, attention + mlp + qk_norm, []),
    "qwen2_moe": (MODEL_ARCH.QWEN2MOE, [*attention, *moe, "mlp.shared_expert_gate", *(m.replace("experts", "expert") for m in shared)], biases),
    "qwen3_moe": (MODEL_ARCH.QWEN3MOE, attention + qk_norm + moe, []),
    "glm4_moe": (MODEL_ARCH.GLM4_MOE, attention + mlp + qk_norm + moe + shared + next_token, biases),
    "granitemoe": (MODEL_ARCH.GRANITE_MOE, [*attention, "block_sparse_moe.router.layer", "block_sparse_moe.output_linear"], []),
    "deepseek_v3": (MODEL_ARCH.DEEPSEEK2, latent + mlp + moe + shared, []),
}
renamed = {"mlp.experts.": "mlp.experts.0.", "block_sparse_moe.experts.": "block_sparse_moe.experts.0.", "self_attn.k_b_proj": "self_attn.kv_b_proj",
           "self_attn.v_b_proj": "self_attn.kv_b_proj"}
names = {}
for model, (arch, weights, with_bias) in models.items():
    table = get_tensor_name_map(arch, 12)
    gguf_name = lambda hf: table.get_name(hf) or exit(f"gguf has no name for {hf} of {arch.name}")
    of = names[model] = {}
    for hf in ["model.embed_tokens", "model.norm", "lm_head", *(f"model.layers.11.{m}" for m in weights)]:
        theirs = gguf_name(hf) + ".weight"
        for old, new in renamed.items():
            hf = hf.replace(old, new)
        of[theirs] = hf + ".weight"
    for module in with_bias:
        of[gguf_name(f"model.layers.11.{module}") + ".bias"] = f"model.layers.11.{module}.bias"
    if model in ("glm4_moe", "deepseek_v3"):  # the converter renames e_score_correction_bias to e_score_correction.bias first
        of[gguf_name("model.layers.11.mlp.gate.e_score_correction") + ".bias"] = "model.layers.11.mlp.gate.e_score_correction_bias"
(here / "names.json").write_text(json.dumps(names, indent=1) + "\n")
(here / "SHA256SUMS").write_text(f"{hashlib.sha256((here / 'names.json').read_bytes()).hexdigest()}  names.json\n")
