"""Three steps of training tiny mixtures of experts, by transformers' Glm4Moe, PyTorch's autograd and torch.optim.AdamW.

Run with transformers 5.23 and torch 2.15: python generate.py. Nothing of overproof takes part: the learning rate, the norm to which
gradients are clipped, the groups without decay, the router's own rate and the balancing of its bias are written from their definitions.
"""

import hashlib
import math
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
STEPS, PLANNED, BATCH, LENGTH = 3, 5, 4, 16
SHAPE = dict(vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
             head_dim=8, max_position_embeddings=64, initializer_range=0.25, bos_token_id=1, eos_token_id=2, n_routed_experts=5,
             n_shared_experts=1, moe_intermediate_size=12, num_experts_per_tok=2, first_k_dense_replace=0, n_group=1, topk_group=1,
             routed_scaling_factor=2.0, num_nextn_predict_layers=0, partial_rotary_factor=1.0, norm_topk_prob=True, use_qk_norm=True,
             attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0))
RATE, ROUTER_SCALE, WARMUP, DECAY, BETAS, EPSILON, CLIP, BALANCE = 3e-3, 0.25, 2, 0.1, (0.9, 0.95), 1e-6, 0.5, 1e-2
KL, CE = 0.7, 0.3


def rate_of(step):
    """Linear warm-up, then a cosine to zero at the end of the planned steps."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (PLANNED - WARMUP)))


def make(name, tied):
    torch.manual_seed(sum(name.encode()))
    cls = transformers.Glm4MoeForCausalLM
    model = cls(cls.config_class(tie_word_embeddings=tied, **SHAPE)).float()
    with torch.no_grad():
        for key, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if key.endswith(("norm.weight", "layernorm.weight")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                tensor.normal_(0, 0.1)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / "before")
    model = cls.from_pretrained(folder / "before", dtype=torch.float32, attn_implementation="eager").train()

    plain, bare, router = [], [], []
    for key, parameter in model.named_parameters():
        (router if key.endswith("gate.weight") else plain if parameter.dim() > 1 else bare).append(parameter)
    optimizer = torch.optim.AdamW([dict(params=plain, weight_decay=DECAY), dict(params=bare, weight_decay=0.0),
                                   dict(params=router, weight_decay=0.0)], lr=RATE, betas=BETAS, eps=EPSILON)
    gates = [layer.mlp.gate for layer in model.model.layers]
    loads = {}
    for number, gate in enumerate(gates):
        gate.register_forward_hook(lambda module, given, out, number=number: loads.__setitem__(
            number, torch.bincount(out[2].reshape(-1), minlength=SHAPE["n_routed_experts"])))

    out = {"ids": torch.randint(SHAPE["vocab_size"], (STEPS, BATCH, LENGTH + 1)),
           "teacher_hidden": torch.randn(STEPS, BATCH, LENGTH, 8), "teacher_head": torch.randn(SHAPE["vocab_size"], 8)}
    numbers, recent = [], {}
    for step in range(STEPS):
        ids = out["ids"][step]
        log_q = torch.log_softmax(model(ids[:, :-1]).logits, -1)
        log_p = torch.log_softmax(out["teacher_hidden"][step] @ out["teacher_head"].T, -1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        ce = torch.nn.functional.nll_loss(log_q.reshape(-1, log_q.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        (KL * kl + CE * ce).backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters()))
        if step == 0:
            gradients = cls.from_pretrained(folder / "before", dtype=torch.float32)
            with torch.no_grad():
                for (key, parameter), (_, of) in zip(gradients.named_parameters(), model.named_parameters()):
                    parameter.copy_(of.grad)
            gradients.save_pretrained(folder / "gradient")
        for parameter in model.parameters():
            parameter.grad.mul_(min(1.0, CLIP / norm.item()))
        for group, scale in zip(optimizer.param_groups, (1, 1, ROUTER_SCALE)):
            group["lr"] = rate_of(step) * scale
        optimizer.step()
        spread = []
        for number, gate in enumerate(gates):
            load = loads[number].float()
            bias = gate.e_score_correction_bias
            share = load / load.mean()
            recent[number] = share if step == 0 else recent[number] + (share - recent[number]) / 8
            bias += BALANCE * torch.sign(1 - recent[number]) * torch.where(recent[number] < 0.1, 8.0, 1.0)
            bias -= bias.mean()
            spread.append(recent[number].max().item())
        numbers.append([(KL * kl + CE * ce).item(), kl.item(), ce.item(), norm.item(), rate_of(step), sum(spread) / len(spread)])
    model.save_pretrained(folder / "after")
    out["numbers"] = torch.tensor(numbers, dtype=torch.float64)  # loss, forward-kl, cross-entropy, gradient norm, rate, balance
    save_file(out, folder / "steps.safetensors", metadata={"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}"})
    for config in folder.rglob("generation_config.json"):
        config.unlink()
    print(name, numbers)


def main():
    make("untied", False)
    make("tied", True)
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "generate.py", "README.md"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
