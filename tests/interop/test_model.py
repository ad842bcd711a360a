"""Our decoder against transformers on the real teacher, SmolLM2-135M-Instruct, dequantised by the PyPI package `gguf`.

OVERPROOF is the built program, OVERPROOF_TEACHER the path of SmolLM2-135M-Instruct.Q4_1.gguf.
"""

import json
import os

import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from program import overproof

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def teacher() -> str:
    path = os.environ.get("OVERPROOF_TEACHER")
    assert path, "OVERPROOF_TEACHER must name SmolLM2-135M-Instruct.Q4_1.gguf"
    return path


@pytest.fixture(scope="module")
def reference(teacher) -> LlamaForCausalLM:
    """transformers' Llama with the GGUF's weights: names and row order undone here, not by our reader."""
    reader = GGUFReader(teacher)
    value = lambda key: reader.fields[key].contents()  # noqa: E731
    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=len(value("tokenizer.ggml.tokens")), hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"), num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        max_position_embeddings=value("llama.context_length"), tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
    )
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        stem = tensor.name.removesuffix(".weight")
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            if part in ("attn_q", "attn_k"):  # llama.cpp interleaves the halves of each head
                n = heads if part == "attn_q" else kv_heads
                weight = weight.view(n, weight.shape[0] // n // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
            state[f"model.layers.{layer}.{NAMES[part]}.weight"] = weight
        else:
            state[{"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight", "output": "lm_head.weight"}[stem]] = weight
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def ours(model: str, ids: torch.Tensor, folder) -> torch.Tensor:
    save_file({"ids": ids.to(torch.int32)}, folder / "ids.safetensors")
    overproof("logits", model, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def test_smollm2_logits(teacher, reference, tmp_path):
    ids = torch.randint(0, reference.config.vocab_size, (256,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = reference(ids[None]).logits[0]
    assert (ours(teacher, ids, tmp_path) - theirs).abs().max() <= 1e-3


def test_smollm2_writes_what_transformers_writes(teacher, reference):
    prompt = "The capital of France is"
    told = overproof("generate", teacher, "--prompt", prompt, "--max-tokens", 16, "--json").stdout
    new = json.loads(told)["ids"]
    reader = GGUFReader(teacher)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    ids = [tokens.index(t) for t in ("The", "Ġcapital", "Ġof", "ĠFrance", "Ġis")]
    with torch.no_grad():
        for token in new:
            logits = reference(torch.tensor([ids])).logits[0, -1]
            assert logits[token] >= logits.max() - 1e-3
            ids.append(token)


@pytest.mark.parametrize("name", ["llama", "smollm2", "mistral", "qwen2", "qwen3", "glm4_moe", "glm4_moe_qk_norm"])
def test_logits_of_each_architecture(name, tmp_path):
    """The golden models once more, by the transformers that is installed: a new release must not drift away unseen."""
    path = os.path.join(os.environ["OVERPROOF_SOURCE_DIR"], "tests/golden/decoder", name)
    ids = load_file(os.path.join(path, "logits.safetensors"))["ids"].long()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(ids[None]).logits[0]
    assert (ours(path, ids, tmp_path) - theirs).abs().max() <= 1e-3
