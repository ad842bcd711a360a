"""compare_teacher.py GGUF OURS.json: exits 1 when our reading of a GGUF model differs from transformers' in name, shape or bit."""
import hashlib
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

gguf, ours = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
theirs = {
    name: {"shape": list(w.shape), "sha256": hashlib.sha256(w.contiguous().numpy().tobytes()).hexdigest()}
    for name, w in model.state_dict().items()
    if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
}
wrong = [f"tensor {n}" for n in sorted(theirs.keys() | ours["tensors"].keys()) if theirs.get(n) != ours["tensors"].get(n)]
config = model.config.to_dict()
keys = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id"]
wrong += [f"config {k}: ours {ours['config'].get(k)}, theirs {config[k]}" for k in keys if ours["config"].get(k) != config[k]]
print("\n".join(wrong) or f"{len(theirs)} tensors equal")
sys.exit(1 if wrong else 0)
