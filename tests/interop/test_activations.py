"""Checkpoints that round activations, run by us and by transformers + compressed-tensors on the CPU, in f32: the same logits.

Rounding jumps: a value near a tie may fall to the other side after sums in another order, and what comes after it then differs by
steps, not by last bits. compressed-tensors' int8 scale, amax / 127.5, puts the least value of many tokens exactly on such a tie
(-127.5). So tokens either agree to about 1e-5 of the rounding's own effect, or differ by less than that effect; how many do
which is what is asked for here, in units of the token's distance to the unquantised model.
"""


import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, LlamaConfig

from program import overproof

COMMON = dict(vocab_size=512, hidden_size=96, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
              max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
LLAMA = LlamaConfig(intermediate_size=208, tie_word_embeddings=True, **COMMON)
GLM4_MOE = Glm4MoeConfig(intermediate_size=192, moe_intermediate_size=36, n_routed_experts=5, n_shared_experts=1, num_experts_per_tok=5,
                         first_k_dense_replace=0, n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=2.0,
                         partial_rotary_factor=1.0, use_qk_norm=False, attention_bias=False, num_nextn_predict_layers=0,
                         tie_word_embeddings=False, **COMMON)


def make(config, folder):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.2) + (parameter.ndim == 1))
    model.eval().save_pretrained(folder)
    return model


def our_logits(model, ids, folder):
    save_file({"ids": ids}, folder / "ids.safetensors")
    overproof("logits", model, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"].reshape(*ids.shape, -1)


def distance(a, b):
    return (a - b).pow(2).mean(-1).sqrt().flatten()


def check(ours, theirs, parent, agreeing):
    """At least this part of the tokens agrees; no token is further from the peer than rounding itself takes it."""
    effect = distance(theirs, parent)
    assert effect.min().item() > 0.005 * parent.std().item()  # something was rounded, at every token
    relative = distance(ours, theirs) / effect
    assert relative.quantile(agreeing).item() < 1e-3, relative.sort().values
    assert relative.max().item() < 1.0, relative.max()


def round_inputs(type_, strategy):
    arguments = QuantizationArgs(num_bits=8, type=type_, strategy=strategy, symmetric=True, dynamic=True)

    def rounded(x):
        value = x if x.ndim == 3 else x[None]
        scale, zero_point = compute_dynamic_scales_and_zp(value=value, args=arguments, module=torch.nn.Linear(1, 1))
        return fake_quantize(x=value, scale=scale, zero_point=zero_point, args=arguments).reshape(x.shape)

    return rounded


def test_w8a8_dense_loads_and_agrees(tmp_path):
    original = make(LLAMA, tmp_path / "model")
    overproof("quantize", "--model", tmp_path / "model", "--scheme", "w8a8", "--out", tmp_path / "w8a8")
    ids = torch.randint(0, 512, (2, 64), generator=torch.Generator().manual_seed(1))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "w8a8", dtype=torch.float32).eval()
    with torch.no_grad():
        parent, theirs = original(ids).logits, loaded(ids).logits
    ours = our_logits(tmp_path / "w8a8", ids, tmp_path)
    check(ours, theirs, parent, 0.25)


@pytest.mark.parametrize("scheme, type_, agreeing", [("fp8", "float", 0.5), ("w8a8", "int", 0.05)])
def test_mixture_of_experts_agrees_linear_by_linear(tmp_path, scheme, type_, agreeing):
    """transformers runs experts without rounding their inputs (and cannot load w8a8 ones), so the peer here is its own code with
    compressed-tensors' rounding put before every Linear and every expert. All experts are active: the function has no jumps."""
    original = make(GLM4_MOE, tmp_path / "model")
    overproof("quantize", "--model", tmp_path / "model", "--scheme", scheme, "--kept-dtype", "f32", "--out", tmp_path / scheme)
    ids = torch.randint(0, 512, (1, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        parent = original(ids).logits
    stored = {name: tensor for file in (tmp_path / scheme).glob("*.safetensors") for name, tensor in load_file(file).items()}
    weight = {n: t.float() * stored[n + "_scale"] if n + "_scale" in stored else t.float() for n, t in stored.items() if n.endswith(".weight")}
    rounded = round_inputs(type_, "token")
    with torch.no_grad():
        for name, module in original.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head" and not name.endswith("mlp.gate"):
                module.weight.copy_(weight[name + ".weight"])
                module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))

    def experts_forward(prefix):
        def forward(hidden_states, top_k_index, top_k_weights):
            out = torch.zeros_like(hidden_states)
            x = rounded(hidden_states)
            for e in range(GLM4_MOE.n_routed_experts):
                gate, up, down = (weight[f"{prefix}.{e}.{part}_proj.weight"] for part in ("gate", "up", "down"))
                y = rounded(torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
                out += y * (top_k_weights * (top_k_index == e)).sum(-1, keepdim=True)
            return out
        return forward

    for i, layer in enumerate(original.model.layers):
        layer.mlp.experts.forward = experts_forward(f"model.layers.{i}.mlp.experts")
    with torch.no_grad():
        theirs = original(ids).logits
    ours = our_logits(tmp_path / scheme, ids, tmp_path)
    check(ours, theirs, parent, agreeing)
