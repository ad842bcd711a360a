"""Our int8 checkpoints, loaded by transformers + compressed-tensors: dense llama and the glm4_moe student.

Three functions are compared on the same tokens: the fp32 model, the int8 checkpoint as transformers computes it, and the
int8 weights dequantised here by hand (q x scale in f32).
"""

import json
import pathlib
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, LlamaConfig

from program import overproof


COMMON = dict(
    vocab_size=512,
    hidden_size=96,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
)


def llama_config():
    return LlamaConfig(intermediate_size=203, tie_word_embeddings=True, **COMMON)  # odd: packed rows are padded, tensors unaligned


def glm4_moe_config():
    return Glm4MoeConfig(
        intermediate_size=192,
        moe_intermediate_size=36,
        n_routed_experts=7,
        n_shared_experts=1,
        num_experts_per_tok=3,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        norm_topk_prob=False,
        routed_scaling_factor=2.0,
        partial_rotary_factor=1.0,
        use_qk_norm=False,
        attention_bias=False,
        num_nextn_predict_layers=0,
        tie_word_embeddings=False,
        **COMMON,
    )


def make_model(config, folder):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Wide enough that logits spread, so that agreement means something.
            parameter.copy_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.2) + (parameter.ndim == 1))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.05)
    model.eval().save_pretrained(folder)
    return model


def quantize(source, target, *options):
    return overproof("quantize", "--model", source, "--out", target, *options)


def tensors_of(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def dequantised(folder):
    """Hugging Face names -> f32 weights, unpacked by hand."""
    tensors, result = tensors_of(folder), {}
    for name, tensor in tensors.items():
        if name.endswith("_packed"):
            rows, columns = tensors[name.replace("_packed", "_shape")].tolist()
            codes = (tensor.contiguous().view(torch.uint8).reshape(rows, -1)[:, :columns].to(torch.int16) - 128).float()
            assert codes.abs().max() <= 127
            result[name.removesuffix("_packed")] = codes * tensors[name.replace("_packed", "_scale")]
        elif not name.endswith(("_scale", "_shape")):
            result[name] = tensor.float()
    return result


def forward(model, tokens):
    with torch.no_grad():
        return model(tokens).logits.float()


def forward_all_experts(model, tokens):
    """Top-k selection is a step function: near a tie, rounding picks another expert, and the distance is then no measure of
    the weights. With all experts active the function is continuous."""
    for layer in model.model.layers:
        if hasattr(layer.mlp, "experts"):
            for module in (layer.mlp, layer.mlp.gate):
                module.top_k = model.config.n_routed_experts
    return forward(model, tokens)


def check_int8_error(original_model, loaded, tokens):
    """Int8 loses little, but it must lose something, or nothing was quantised."""
    original, quantised = forward_all_experts(original_model, tokens), forward_all_experts(loaded, tokens)
    error = (quantised - original).pow(2).mean().sqrt().item() / original.std().item()
    assert 1e-4 < error < 0.05, error
    log_p, log_q = original.log_softmax(-1), quantised.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
    assert divergence < 0.01, divergence


@pytest.fixture(scope="module", params=["llama", "glm4_moe"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = llama_config() if request.param == "llama" else glm4_moe_config()
    model = make_model(config, folder / "fp32")
    quantize(folder / "fp32", folder / "int8")
    tokens = torch.randint(3, 512, (2, 64), generator=torch.Generator().manual_seed(1))
    return request.param, folder, model, tokens


def test_transformers_computes_what_the_weights_say(case):
    kind, folder, model, tokens = case
    loaded, info = AutoModelForCausalLM.from_pretrained(folder / "int8", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    by_hand = folder / "by-hand"
    if not by_hand.exists():
        by_hand.mkdir()
        save_file(dequantised(folder / "int8"), by_hand / "model.safetensors", metadata={"format": "pt"})
        (by_hand / "config.json").write_text((folder / "fp32" / "config.json").read_text())
    reference = forward(AutoModelForCausalLM.from_pretrained(by_hand, dtype=torch.float32), tokens)
    theirs = forward(loaded.eval(), tokens)
    spread = theirs.std().item()
    assert spread > 0.5
    assert (theirs - reference).abs().max().item() < 1e-3 * spread
    check_int8_error(model, loaded, tokens)


def test_weights_are_within_half_a_step_and_the_rest_untouched(case):
    kind, folder, model, tokens = case
    before, after, raw = tensors_of(folder / "fp32"), dequantised(folder / "int8"), tensors_of(folder / "int8")
    assert before.keys() == after.keys()
    packed = {name.removesuffix("_packed") for name in tensors_of(folder / "int8") if name.endswith("_packed")}
    for name, weight in before.items():
        if name in packed:
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            assert ((weight - after[name]).abs() <= 0.50001 * step).all(), name
        elif name == "model.embed_tokens.weight":  # in 16 bits: no loader takes it in 8
            assert raw[name].dtype == torch.bfloat16 and torch.equal(weight.bfloat16().float(), after[name])
        else:
            assert raw[name].dtype == torch.float32 and torch.equal(weight.float(), after[name]), name
    linear = {name for name in before if name.endswith("_proj.weight")}
    assert packed == linear | (set() if kind == "llama" else {"lm_head.weight"}) and len(linear) > 20
    if kind == "glm4_moe":
        assert sum(".experts." in name for name in packed) == 3 * 7 * 3
        assert raw["model.layers.0.mlp.gate.weight"].dtype == torch.float32
        assert raw["model.layers.0.mlp.gate.e_score_correction_bias"].dtype == torch.float32


def ours(checkpoint, tokens, folder):
    save_file({"ids": tokens[0]}, folder / "ids.safetensors")
    overproof("logits", checkpoint, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def test_a_head_in_8_bits_is_one_in_every_loader(case, tmp_path):
    """transformers replaces it by a compressed Linear, and vLLM's and SGLang's ParallelLMHead, which is no Linear, finds it by name. Where head and
    embedding are one table it stays as it is."""
    kind, folder, model, tokens = case
    config = json.loads((folder / "int8" / "config.json").read_text())["quantization_config"]
    targets = config["config_groups"]["group_0"]["targets"]
    loaded = AutoModelForCausalLM.from_pretrained(folder / "int8", dtype=torch.float32).eval()
    codes = tensors_of(folder / "int8")
    if kind == "llama":
        assert "lm_head" in config["ignore"] and targets == ["Linear"] and not any(n.startswith("lm_head") for n in codes)
    else:
        assert "lm_head" not in config["ignore"] and any(t.startswith("re:") and re.match(t[3:], "lm_head") for t in targets)
        assert codes["lm_head.weight_packed"].dtype == torch.int32 and "lm_head.weight" not in codes
        assert torch.equal(loaded.lm_head.weight_packed, codes["lm_head.weight_packed"])
    theirs = forward(loaded, tokens)[0]
    assert (ours(folder / "int8", tokens, tmp_path) - theirs).abs().max() < 1e-4 * theirs.std()
    # In bf16, as the student of a bf16 teacher is loaded by default.
    narrow = forward(AutoModelForCausalLM.from_pretrained(folder / "int8", dtype=torch.bfloat16).eval(), tokens)[0]
    assert (narrow.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.8


def test_the_head_can_be_kept(case, tmp_path):
    kind, folder, model, tokens = case
    done = quantize(folder / "fp32", tmp_path / "int8", "--exclude", "lm_head.*", "--kept-dtype", "f32")
    raw = tensors_of(tmp_path / "int8")
    assert raw["model.embed_tokens.weight"].dtype == torch.float32 and "lm_head.weight_packed" not in raw
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "int8", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert "model.embed_tokens.weight as F32" in done.stdout


def test_shards_and_exclusions_load_too(case, tmp_path):
    kind, folder, model, tokens = case
    quantize(folder / "fp32", tmp_path / "int8", "--max-shard-bytes", str(1 << 20), "--exclude", "*.o_proj.weight", "--clipping", "mse")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "int8", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    check_int8_error(model, loaded.eval(), tokens)


def test_every_file_is_a_whole_safetensors_file(case):
    kind, folder, model, tokens = case
    config = json.loads((folder / "int8" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    for file in (folder / "int8").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
