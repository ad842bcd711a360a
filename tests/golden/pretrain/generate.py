"""Three steps of training a tiny Llama on labels alone, by transformers, PyTorch's autograd and torch.optim.AdamW.

Run with transformers 5.23 and torch 2.15: python generate.py. Nothing of overproof takes part: the cross-entropy, the learning rate, the norm
to which gradients are clipped and the weights without decay are written from their definitions.
"""

import hashlib
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
STEPS, PLANNED, BATCH, LENGTH = 3, 5, 4, 16
SHAPE = dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
             max_position_embeddings=64, initializer_range=0.25, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
             rope_parameters=dict(rope_type="default", rope_theta=10000.0))
RATE, WARMUP, DECAY, BETAS, EPSILON, CLIP = 3e-3, 2, 0.1, (0.9, 0.95), 1e-6, 0.5


def rate_of(step):
    """Linear warm-up, then linear to zero at the end of the planned steps."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return RATE * (1 - (step - WARMUP) / (PLANNED - WARMUP))


def main():
    torch.manual_seed(5)
    cls = transformers.LlamaForCausalLM
    model = cls(cls.config_class(**SHAPE)).float()
    for name in ("before", "after"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    model.save_pretrained(HERE / "before")
    model = cls.from_pretrained(HERE / "before", dtype=torch.float32, attn_implementation="eager").train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    bare = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=DECAY), dict(params=bare, weight_decay=0.0)], lr=RATE, betas=BETAS, eps=EPSILON)
    ids = torch.randint(SHAPE["vocab_size"], (STEPS, BATCH, LENGTH + 1))
    numbers = []
    for step in range(STEPS):
        logits = model(ids[step][:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, SHAPE["vocab_size"]), ids[step][:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters()))
        for parameter in model.parameters():
            parameter.grad.mul_(min(1.0, CLIP / norm.item()))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        numbers.append([loss.item(), norm.item(), rate_of(step)])
    model.save_pretrained(HERE / "after")
    save_file({"ids": ids, "numbers": torch.tensor(numbers, dtype=torch.float64)}, HERE / "steps.safetensors",
              metadata={"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}"})
    for config in HERE.rglob("generation_config.json"):
        config.unlink()
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "generate.py", "README.md"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(sums))
    print(numbers)


if __name__ == "__main__":
    main()
