"""Tiny random models of every architecture that model/ reads, and their logits by transformers in f32.

Run with transformers 5.23 and torch 2.15: python generate.py
"""

import hashlib
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = dict(
    vocab_size=128, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, max_position_embeddings=512, initializer_range=0.25, bos_token_id=1, eos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
EXPERTS = dict(n_routed_experts=6, n_shared_experts=1, moe_intermediate_size=24, num_experts_per_tok=2, first_k_dense_replace=0,
               n_group=1, topk_group=1, routed_scaling_factor=2.0, num_nextn_predict_layers=0, partial_rotary_factor=1.0,
               rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0))
CASES = {
    "llama": ("LlamaForCausalLM", dict(tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "smollm2": ("LlamaForCausalLM", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=100000.0))),
    "mistral": ("MistralForCausalLM", dict(sliding_window=None, rms_norm_eps=1e-5)),
    "qwen2": ("Qwen2ForCausalLM", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen3": ("Qwen3ForCausalLM", dict(tie_word_embeddings=False)),
    "glm4_moe": ("Glm4MoeForCausalLM", dict(norm_topk_prob=False, use_qk_norm=False, attention_bias=False, **EXPERTS)),
    "glm4_moe_qk_norm": ("Glm4MoeForCausalLM", dict(norm_topk_prob=True, use_qk_norm=True, attention_bias=True, **EXPERTS)),
}


def make(name: str, architecture: str, options: dict) -> None:
    torch.manual_seed(sum(name.encode()))
    folder = HERE / name
    cls = getattr(transformers, architecture)
    # Qwen2's configuration has no head_dim; 48 / 4 = 12 is its own.
    shape = {k: v for k, v in SHAPE.items() if not (architecture.startswith("Qwen2") and k == "head_dim")}
    model = cls(cls.config_class(**shape, **options))
    with torch.no_grad():
        for key, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if key.endswith(("norm.weight", "layernorm.weight")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                tensor.normal_(0, 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)

    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, SHAPE["vocab_size"], (1, 256))
    with torch.no_grad():
        logits = model(ids).logits[0]
    positions = torch.arange(7, 256, 8)
    save_file(
        {"ids": ids[0].to(torch.int32), "positions": positions.to(torch.int32), "logits": logits[positions].contiguous()},
        folder / "logits.safetensors", metadata={"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}"},
    )
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(name, "largest logit", logits.abs().max().item(), sum(f.stat().st_size for f in folder.iterdir()), "bytes",
          json.loads((folder / "config.json").read_text()).get("rope_parameters"))


def main() -> None:
    for name, (architecture, options) in CASES.items():
        make(name, architecture, options)
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "generate.py", "README.md"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
