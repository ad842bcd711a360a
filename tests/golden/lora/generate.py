"""Three steps of training LoRA adapters on tiny models, by PEFT, transformers, PyTorch's autograd and torch.optim.AdamW.

Run with peft 0.21.2, transformers 5.23 and torch 2.15: python generate.py. Nothing of overproof takes part.
"""

import hashlib
import json
import math
import pathlib
import shutil

import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
STEPS, PLANNED, BATCH, LENGTH = 3, 5, 4, 16
SHAPE = dict(vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
             head_dim=8, max_position_embeddings=64, initializer_range=0.25, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
MIXTURE = dict(n_routed_experts=5, n_shared_experts=1, moe_intermediate_size=12, num_experts_per_tok=2, first_k_dense_replace=0, n_group=1,
               topk_group=1, routed_scaling_factor=2.0, num_nextn_predict_layers=0, norm_topk_prob=True, use_qk_norm=True, attention_bias=True,
               partial_rotary_factor=1.0, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0))
RATE, WARMUP, DECAY, BETAS, EPSILON, CLIP = 3e-3, 2, 0.1, (0.9, 0.95), 1e-6, 0.5
KL, CE, RANK, ALPHA = 0.7, 0.3, 3, 8


def rate_of(step):
    """Linear warm-up, then a cosine to zero at the end of the planned steps."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (PLANNED - WARMUP)))


def save(model, folder):
    """As PEFT does, without the path of the base model."""
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def make(name, cls, shape, words):
    torch.manual_seed(sum(name.encode()))
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = cls(cls.config_class(**shape)).float()
    with torch.no_grad():
        for key, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if key.endswith(("norm.weight", "layernorm.weight")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                tensor.normal_(0, 0.1)
    model.save_pretrained(folder / "base")
    base = cls.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="eager")
    modules = [key for key, module in base.named_modules() if isinstance(module, torch.nn.Linear) and key.split(".")[-1] in words]
    model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, task_type="CAUSAL_LM")).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.05)  # PEFT begins at zero, where A has no gradient
    save(model, folder / "before")
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    out = {"ids": torch.randint(SHAPE["vocab_size"], (STEPS, BATCH, LENGTH + 1)),
           "teacher_hidden": torch.randn(STEPS, BATCH, LENGTH, 8), "teacher_head": torch.randn(SHAPE["vocab_size"], 8)}
    with torch.no_grad():
        out["logits_before"] = model(out["ids"][0][:, :-1]).logits.contiguous()
    numbers = []
    for step in range(STEPS):
        ids = out["ids"][step]
        log_q = torch.log_softmax(model(ids[:, :-1]).logits, -1)
        log_p = torch.log_softmax(out["teacher_hidden"][step] @ out["teacher_head"].T, -1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        ce = torch.nn.functional.nll_loss(log_q.reshape(-1, log_q.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        (KL * kl + CE * ce).backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in trained))
        for parameter in trained:
            parameter.grad.mul_(min(1.0, CLIP / norm.item()))
        optimizer.param_groups[0]["lr"] = rate_of(step)
        optimizer.step()
        numbers.append([(KL * kl + CE * ce).item(), kl.item(), ce.item(), norm.item(), rate_of(step)])
    save(model, folder / "after")
    with torch.no_grad():
        out["logits_after"] = model(out["ids"][0][:, :-1]).logits.contiguous()
    out["numbers"] = torch.tensor(numbers, dtype=torch.float64)  # loss, forward-kl, cross-entropy, gradient norm, rate
    versions = f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    save_file(out, folder / "steps.safetensors", metadata={"made_by": versions, "modules": ",".join(modules)})
    for file in [*folder.rglob("generation_config.json"), *folder.rglob("README.md")]:
        file.unlink()
    print(name, len(modules), numbers)


def main():
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    make("dense", transformers.LlamaForCausalLM, SHAPE, every)
    make("attention", transformers.LlamaForCausalLM, SHAPE, ("q_proj", "v_proj"))
    # PEFT 0.21 takes the names of FFN projections for the fused experts there.
    make("mixture", transformers.Glm4MoeForCausalLM, SHAPE | MIXTURE, every[:4])
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "generate.py", "README.md"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
