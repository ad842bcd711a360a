"""`overproof export`: what it writes, loaded by llama.cpp, against transformers in f32 and against our own reading of it.

OVERPROOF_TEACHER is the path of SmolLM2-135M-Instruct.Q4_1.gguf.
"""
import base64
import importlib.util
import json
import os
import sysconfig
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

import llama_cpp
from program import overproof

BASE = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128)
LEADING = dict(num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=1.5)
FAMILIES = {
    "llama": dict(attention_bias=True, mlp_bias=True, head_dim=24),
    "mistral": dict(sliding_window=None),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=32),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=96, tie_word_embeddings=True),
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=16, norm_topk_prob=True),
    "glm4_moe": dict(**LEADING, n_routed_experts=8, head_dim=16, use_qk_norm=True, attention_bias=True, n_group=4, topk_group=2),
    # What our own `student` stage makes.
    "glm4_moe-student": dict(LEADING, n_routed_experts=7, num_experts_per_tok=3, head_dim=16, first_k_dense_replace=0, n_group=1, topk_group=1,
                             norm_topk_prob=False, partial_rotary_factor=1.0, use_qk_norm=False, attention_bias=False),
    "deepseek_v3": dict(**LEADING, n_routed_experts=8, q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=40,
                        n_group=2, topk_group=1, num_key_value_heads=4),
    "granitemoe": dict(num_local_experts=4, num_experts_per_tok=2, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.5,
                       logits_scaling=2.0),
}
ORIGINAL = dict(rope_theta=10000.0, original_max_position_embeddings=32)
ROPE = {
    "llama3": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL),
    "linear": dict(rope_type="linear", factor=2.0, rope_theta=10000.0),
    "yarn": dict(rope_type="yarn", factor=4.0, **ORIGINAL),
    "yarn-mscale": dict(rope_type="yarn", factor=4.0, mscale=1.0, mscale_all_dim=1.0, **ORIGINAL),
}


# These models came from nowhere, so that the policy (test_policy.py) would hold them back.
ACKNOWLEDGED = ["--acknowledge", "unknown-ancestry,unspecified"]


def export(model, out, *options, code=0):
    done = overproof("export", "--model", model, "--out", out, *ACKNOWLEDGED, *options, code=code)
    return done if code else out / "model.gguf"


def make_model(family, folder, **changes):
    torch.manual_seed(7)
    config = AutoConfig.for_model(family.split("-")[0], **{**BASE, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name:
                continue
            # Logits spread by more than one, and experts are chosen clearly.
            scale = 0.1 if "correction" in name else 0.3 if x.dim() == 1 else 1.2 / x.shape[-1] ** 0.5
            x.copy_(torch.randn_like(x) * scale + ("norm" in name))
    model.save_pretrained(folder)
    return model


def ids(count=100):
    return torch.randint(0, BASE["vocab_size"], (count,), generator=torch.Generator().manual_seed(3)).tolist()


def reference(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def llama_logits(path, tokens):
    with llama_cpp.Model(path) as model:
        return model.logits(tokens)


# f32: sums in another order. f16 and bf16: llama.cpp rounds activations, too; 0.03 and 0.25 of logits that spread by 1.2.
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, tmp_path):
    want = reference(make_model(family, tmp_path / "hf"), ids())
    assert want.std() > 0.5
    errors = {}
    for kind, most in {"f32": 3e-5, "f16": 0.03, "bf16": 0.25}.items():
        file = export(tmp_path / "hf", tmp_path / kind, "--type", kind)
        # A rounded input of a router may choose another expert: few positions may then be far off, in f32 none.
        errors[kind] = np.quantile(np.abs(llama_logits(file, ids()) - want).max(axis=1), 1.0 if kind == "f32" else 0.9)
        assert errors[kind] < most, errors
    assert errors["f32"] < errors["f16"] < errors["bf16"]
    # Our decoder computes the same from that file as from the folder.
    save_file({"ids": torch.tensor(ids(), dtype=torch.int32)}, tmp_path / "ids.safetensors")
    for source in ("hf", "f32"):
        overproof("logits", tmp_path / source, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
        assert np.abs(load_file(tmp_path / "logits.safetensors")["logits"].numpy() - want).max() < 1e-4, source
    # What we read back is what we wrote: the file made from the file is the same, and nothing was read but GGUF.
    again = export(tmp_path / "f32", tmp_path / "again", "--type", "f32")
    assert again.read_bytes() == (tmp_path / "f32" / "model.gguf").read_bytes()
    # The independent reader agrees, and the type is what was asked for, where it can be.
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "f16" / "model.gguf").tensors}
    assert types["token_embd.weight"] == "F16" and types["output_norm.weight"] == "F32"
    assert all(kind == "F32" for name, kind in types.items() if "norm" in name or "bias" in name or name.endswith("gate_inp.weight"))


def ggml_q8_0(values):
    """llama.cpp's own quantiser on rows of f32."""
    import ctypes
    rows, columns = values.reshape(-1, values.shape[-1]).shape
    out = np.zeros(rows * columns // 32 * 34, dtype=np.uint8)
    chunk = llama_cpp.library().ggml_quantize_chunk
    chunk.restype, chunk.argtypes = ctypes.c_size_t, [ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    values = np.ascontiguousarray(values, dtype=np.float32)
    assert chunk(8, values.ctypes.data, out.ctypes.data, 0, rows, columns, None) == out.size
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_q8_0_is_llama_cpps_own(family, tmp_path):
    want = reference(make_model(family, tmp_path / "hf"), ids())
    overproof("quantize", tmp_path / "hf", tmp_path / "q8_0", "--scheme", "q8_0", "--acknowledge", "unknown-ancestry,unspecified", "--key", tmp_path / "key.pem")
    plain = {t.name: t.data for t in gguf.GGUFReader(export(tmp_path / "hf", tmp_path / "f32", "--type", "f32")).tensors}
    kinds = {}
    for t in gguf.GGUFReader(tmp_path / "q8_0" / "model.gguf").tensors:
        kinds.setdefault(t.tensor_type.name, []).append(t.name)
        if t.tensor_type.name == "Q8_0":
            assert np.array_equal(t.data.reshape(-1), ggml_q8_0(plain[t.name])), t.name
        elif t.tensor_type.name == "F32":
            assert np.array_equal(t.data, plain[t.name]), t.name
    assert not any("norm" in n or "inp" in n for n in kinds["Q8_0"])
    # As llama-quantize has it: the embedding, and the head where there is one.
    assert {"token_embd.weight", "output.weight"} & set(plain) <= set(kinds["Q8_0"])
    assert not any(len(t.shape) > 1 and "inp" not in t.name and t.tensor_type.name == "F32" for t in gguf.GGUFReader(tmp_path / "q8_0" / "model.gguf").tensors)
    experts = [n for n in plain if "_exps" in n]
    assert set(experts) <= set(kinds["Q8_0"]) and sum("attn" in n for n in kinds["Q8_0"]) >= 8
    # llama.cpp rounds activations to 8 bits, too: near, and where a router is near a tie, few positions far off.
    off = np.abs(llama_logits(tmp_path / "q8_0" / "model.gguf", ids()) - want).max(axis=1)
    assert 1e-4 < np.median(off) < 0.25 and np.median(off) < 0.2 * want.std(), np.median(off)


@pytest.mark.parametrize("family,scaling", [("llama", "llama3"), ("llama", "linear"), ("llama", "yarn"), ("qwen2", "yarn"), ("granitemoe", "llama3"),
                                            ("deepseek_v3", "yarn-mscale")])
def test_rope_scaling(family, scaling, tmp_path):
    plain = reference(make_model(family, tmp_path / "plain"), ids())
    model = make_model(family, tmp_path / "hf", rope_parameters=ROPE[scaling])
    want = reference(model, ids())
    assert np.abs(want - plain).max() > 0.05
    file = export(tmp_path / "hf", tmp_path / "f32", "--type", "f32")
    assert np.abs(llama_logits(file, ids()) - want).max() < 3e-5
    assert export(file, tmp_path / "again", "--type", "f32").read_bytes() == file.read_bytes()


def test_config_as_transformers_4_wrote_it(tmp_path):
    want = reference(make_model("llama", tmp_path / "hf", rope_parameters=ROPE["llama3"]), ids())
    config = json.loads((tmp_path / "hf/config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    assert np.abs(llama_logits(export(tmp_path / "hf", tmp_path / "f32", "--type", "f32"), ids()) - want).max() < 3e-5


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "glm4_moe"])
def test_fused_experts(family, tmp_path):
    """Experts in one tensor each, as transformers holds them in memory, give the same file."""
    make_model(family, tmp_path / "hf")
    whole = export(tmp_path / "hf", tmp_path / "one-by-one").read_bytes()
    tensors = load_file(tmp_path / "hf/model.safetensors")
    names = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    middle = "block_sparse_moe" if family == "mixtral" else "mlp"
    for layer in range(2):
        prefix = f"model.layers.{layer}.{middle}.experts."
        if f"{prefix}0.{names[0]}.weight" not in tensors:
            continue
        experts = sum(name.startswith(prefix) for name in tensors) // 3
        gate, up, down = (torch.stack([tensors.pop(f"{prefix}{e}.{name}.weight") for e in range(experts)]) for name in names)
        tensors[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        tensors[f"model.layers.{layer}.mlp.experts.down_proj"] = down
    save_file(tensors, tmp_path / "hf/model.safetensors")
    for threads, block in (1, 65536), (2, 8 << 20):
        file = export(tmp_path / "hf", tmp_path / f"fused{threads}", "--threads", threads, "--block-bytes", block)
        assert file.read_bytes() == whole


@pytest.mark.parametrize("family,arch", [("glm4_moe", "glm4moe"), ("deepseek_v3", "deepseek2")])
def test_layers_that_predict_further_tokens_come_along(family, arch, tmp_path):
    model = make_model(family, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    for name in [n for n in tensors if n.startswith("model.layers.1.")]:
        tensors[name.replace("layers.1", "layers.2")] = torch.randn_like(tensors[name])
    for name, shape in {"eh_proj": (64, 128), "enorm": (64,), "hnorm": (64,), "embed_tokens": (96, 64), "shared_head.head": (96, 64),
                        "shared_head.norm": (64,)}.items():
        tensors[f"model.layers.2.{name}.weight"] = torch.randn(shape)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    file = export(tmp_path / "hf", tmp_path / "f32", "--type", "f32")
    fields = gguf.GGUFReader(file).fields
    assert fields[f"{arch}.nextn_predict_layers"].contents() == 1 and fields[f"{arch}.block_count"].contents() == 3
    assert np.abs(llama_logits(file, ids()) - reference(model, ids())).max() < 3e-5
    assert export(file, tmp_path / "again", "--type", "f32").read_bytes() == file.read_bytes()


REFUSED = [
    ("llama", dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    ("llama", dict(rope_parameters=dict(rope_type="dynamic", factor=2.0)), "'dynamic'"),
    ("qwen2", dict(rope_parameters=ROPE["llama3"]), "'llama3'"),
    ("qwen2", dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), "RoPE turns 0.5"),
    ("qwen2_moe", dict(norm_topk_prob=True), "norm_topk_prob is true"),
    ("qwen3_moe", dict(norm_topk_prob=False), "norm_topk_prob is false"),
    ("qwen3_moe", dict(mlp_only_layers=[7]), "mlp_only_layers"),
    ("deepseek_v3", dict(rope_interleave=False), "rope_interleave"),
    ("deepseek_v3", dict(rope_parameters=ROPE["yarn"]), "no mscale_all_dim"),
    ("llama", dict(rope_parameters=ROPE["yarn-mscale"]), "has an mscale"),
    ("llama", dict(rope_parameters=dict(ROPE["yarn"], attention_factor=2.0)), "attention_factor is 2"),
    ("granitemoe", dict(attention_multiplier=0.0), "attention_multiplier is 0"),
    ("llama", dict(model_type="gemma3"), "'gemma3' cannot be written as GGUF; supported: llama, mistral"),
]


@pytest.mark.parametrize("family,change,cause", REFUSED, ids=[f"{f}: {why}" for f, _, why in REFUSED])
def test_what_llama_cpp_computes_otherwise_is_refused(family, change, cause, tmp_path):
    make_model(family, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, **change}))
    assert cause in export(tmp_path / "hf", tmp_path / "out", code=3).stderr
    assert not (tmp_path / "out").exists()


def test_tensors_are_accounted_for(tmp_path):
    make_model("qwen3", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.o_proj.bias": torch.zeros(64)}, tmp_path / "hf/model.safetensors")
    assert "no place for tensor 'model.layers.0.self_attn.o_proj.bias'" in export(tmp_path / "hf", tmp_path / "out", code=3).stderr
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "hf/model.safetensors")
    assert "has no tensor 'model.layers.1.mlp.up_proj.weight'" in export(tmp_path / "hf", tmp_path / "out", code=3).stderr


def test_values_that_f16_cannot_hold(tmp_path):
    make_model("qwen3", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 70000
    save_file(tensors, tmp_path / "hf/model.safetensors")
    assert "blk.1.ffn_up.weight row 3 holds 70000, which is too large for F16" in export(tmp_path / "hf", tmp_path / "out", code=3).stderr
    assert not (tmp_path / "out").exists()
    export(tmp_path / "hf", tmp_path / "out", "--type", "bf16")


def test_an_attention_window_bounds_the_context(tmp_path):
    model = make_model("mistral", tmp_path / "hf", sliding_window=50)
    file = export(tmp_path / "hf", tmp_path / "f32", "--type", "f32")
    assert gguf.GGUFReader(file).fields["llama.context_length"].contents() == 50
    assert np.abs(llama_logits(file, ids(50)) - reference(model, ids(50))).max() < 3e-5


# --- tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
            "\\s*[\r\n]+|\\s+(?!\\S)|\\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SHAPES = {  # name in llama.cpp: pre-tokeniser, options of the model
    "llama-bpe": ([split(LLAMA3), BYTES], dict(ignore_merges=True)),
    "smaug-bpe": ([split(LLAMA3), BYTES], {}),
    "qwen2": ([split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), BYTES], {}),
    "gpt-2": ([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)], {}),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)], {}),
    "deepseek-v3": ([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), BYTES], {}),
}


@pytest.fixture(scope="session")
def text():
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:12]
    prose = ("The quick brown fox's 12345 jumps  over\tthe\n\n lazy dog; WE'LL see, I'm sure. Größe, naïve, Ελλάδα, Привет мир, "
             "人人生而自由,在尊严和权利上一律平等。 ひらがな カタカナ 한국어 नमस्ते \U0001F469\u200d\U0001F4BB 👍🏽 3,141.59e-7   \r\n\r\n  x\n")
    return "".join(f.read_text(errors="replace")[:8000] for f in files) + prose * 20


def save_tokenizer(tokenizer, folder, **config):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>", **config}))


def compare(file, text, theirs):
    with llama_cpp.Model(file) as model:
        ours = model.tokenize(text, parse_special=True)
        first = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), None)
        near = slice(max(0, (first or 0) - 4), (first or 0) + 4)
        assert first is None and len(ours) == len(theirs), (first, theirs[near], ours[near])


@pytest.mark.parametrize("shape", SHAPES)
def test_tokenizer_json(shape, text, tmp_path):
    steps, options = SHAPES[shape]
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=1500, special_tokens=["<|begin|>", "<|end|>"], show_progress=False,
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    if shape == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    # Who decides whether a text begins with BOS: a template in tokenizer.json, ByteLevel there (no), or the flag in the configuration
    # when there is neither, or the class is Llama's, which DeepSeek uses so.
    template, byte_level = shape in ("llama-bpe", "gpt-2"), shape in ("smollm", "deepseek-v3")
    flag = byte_level or shape == "qwen2"
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    elif byte_level:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    make_model("qwen3", tmp_path / "hf", vocab_size=1510)
    save_tokenizer(tokenizer, tmp_path / "hf", chat_template="{{ messages[0].content }}", add_bos_token=flag,
                   tokenizer_class="LlamaTokenizerFast" if shape == "deepseek-v3" else "PreTrainedTokenizerFast")
    file = export(tmp_path / "hf", tmp_path / "out")
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == shape
    assert fields["tokenizer.chat_template"].contents() == "{{ messages[0].content }}"
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == "[PAD1509]"
    compare(file, text + "<|end|>a<tool>b", tokenizer.encode(text + "<|end|>a<tool>b", add_special_tokens=False).ids)
    with llama_cpp.Model(file) as model:
        assert model.lib.llama_vocab_bos(model.vocab) == 0 and model.lib.llama_vocab_eos(model.vocab) == 1
        begin = [0] if template or (flag and (shape == "deepseek-v3" or not byte_level)) else []
        assert model.tokenize("a", add_special=True) == begin + model.tokenize("a")
    # Through our own reading of the file: the same tokenizer again.
    assert export(tmp_path / "out", tmp_path / "again").read_bytes() == file.read_bytes()


def test_pre_tokenisers_that_llama_cpp_has_not_got(text, tmp_path):
    make_model("qwen3", tmp_path / "hf", vocab_size=400)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split("[a-z]+"), BYTES])
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<|begin|>", "<|end|>"],
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    save_tokenizer(tokenizer, tmp_path / "hf")
    assert "no pre-tokeniser that splits as this one does" in export(tmp_path / "hf", tmp_path / "out", code=3).stderr


MISTRAL = sorted((Path(importlib.util.find_spec("mistral_common").origin).parent / "data").glob("*.model.v*"))


@pytest.mark.parametrize("model", MISTRAL, ids=lambda p: p.name)
def test_sentencepiece(model, text, tmp_path):
    peer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    make_model("mistral", tmp_path / "hf", vocab_size=peer.get_piece_size() + 2)
    (tmp_path / "hf/tokenizer.model").write_bytes(model.read_bytes())
    extra = peer.get_piece_size()
    added = {str(extra): {"content": "<|extra|>", "special": True}, "1": {"content": "<s>", "special": True}}
    (tmp_path / "hf/tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "added_tokens_decoder": added}))
    file = export(tmp_path / "hf", tmp_path / "out")
    compare(file, text, peer.encode(text))
    with llama_cpp.Model(file) as opened:
        assert opened.tokenize("ab", add_special=True) == [peer.bos_id(), *peer.encode("ab")]
        assert extra in opened.tokenize("a<|extra|>b", parse_special=True)


def test_sentencepiece_in_the_spelling_of_transformers(text, tmp_path):
    """tokenizer.json alone, as transformers 5 saves a Llama 2 or Mistral: byte fallback, merges in place of scores."""
    peer = sentencepiece.SentencePieceProcessor(model_file=str(MISTRAL[0]))
    pieces = [peer.id_to_piece(i) for i in range(peer.get_piece_size())]
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = sorted((-peer.get_score(i), i, left, p[len(left):]) for i, p in enumerate(pieces) if not peer.is_byte(i) and not peer.is_control(i)
                    for left in (p[:k] for k in range(1, len(p))) if left in vocab and p[len(left):] in vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [(left, right) for _, _, left, right in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    make_model("mistral", tmp_path / "hf", vocab_size=len(pieces))
    save_tokenizer(tokenizer, tmp_path / "hf", bos_token="<s>", eos_token="</s>")
    file = export(tmp_path / "hf", tmp_path / "out")
    assert tokenizer.encode(text, add_special_tokens=False).ids == peer.encode(text)
    compare(file, text, peer.encode(text))
    with llama_cpp.Model(file) as opened:
        assert opened.tokenize("ab</s>", add_special=True, parse_special=True) == [1, *peer.encode("ab"), 2]


@pytest.fixture(scope="session")
def teacher():
    path = os.environ.get("OVERPROOF_TEACHER")
    assert path, "OVERPROOF_TEACHER must name SmolLM2-135M-Instruct.Q4_1.gguf (see examples/)"
    return Path(path)


def test_smollm2(teacher, text, tmp_path):
    """The teacher's GGUF, through our view of it, as F16: its values as the gguf package dequantises them, its keys and tokens, and
    what llama.cpp makes of it."""
    file = export(teacher, tmp_path / "f16")
    theirs, ours = gguf.GGUFReader(teacher), gguf.GGUFReader(file)
    wanted = {t.name: t for t in theirs.tensors}
    assert {t.name for t in ours.tensors} == set(wanted)
    for tensor in ours.tensors:
        values = gguf.dequantize(wanted[tensor.name].data, wanted[tensor.name].tensor_type).reshape(tensor.data.shape)
        assert np.array_equal(tensor.data, values.astype(tensor.data.dtype)), tensor.name
    for key in ours.fields:  # what the converter wrote for llama.cpp is written again, in the same type
        if key in theirs.fields and not key.startswith(("general.", "GGUF.")):
            assert ours.fields[key].types == theirs.fields[key].types, key
            assert ours.fields[key].contents() == theirs.fields[key].contents(), key
    missing = {k for k in theirs.fields if k.startswith(("llama.", "tokenizer."))} - set(ours.fields)
    assert not missing
    with llama_cpp.Model(teacher) as q4, llama_cpp.Model(file) as f16:
        assert f16.tokenize(text, parse_special=True) == q4.tokenize(text, parse_special=True)
        tokens = f16.tokenize(text)[:48]
        log_p, log_q = (torch.log_softmax(torch.tensor(m.logits(tokens)).double(), -1) for m in (q4, f16))
    # On Q4_1 weights llama.cpp rounds activations to 8 bits.
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert kl.mean() < 0.02, kl
    assert (log_p.argmax(-1) == log_q.argmax(-1)).double().mean() >= 0.9


def test_lineage_and_inspect(tmp_path):
    make_model("qwen3", tmp_path / "hf")
    run = tmp_path / "run"
    overproof("import", "--path", tmp_path / "hf", "--out", run / "model")
    file = export(run / "model", run / "gguf", "--name", "tiny")
    assert gguf.GGUFReader(file).fields["general.name"].contents() == "tiny"
    claim = json.loads((run / "gguf/claims.jsonl").read_text().splitlines()[0])
    statement = json.loads(base64.b64decode(claim["payload"]))
    assert statement["predicate"]["overproof_lineage"]["kind"] == "exported-from"
    report = json.loads(overproof("inspect", "--json", file).stdout)
    assert report["tensors"] == 25 and report["files"][0]["metadata"]["qwen3.block_count"] == 2
    assert "unchanged" in overproof("export", "--model", run / "model", "--out", run / "gguf", "--name", "tiny", *ACKNOWLEDGED).stdout
    overproof("audit", "verify", run)
    raw = bytearray(file.read_bytes())
    raw[-100] ^= 1
    file.write_bytes(raw)
    overproof("audit", "verify", run, code=4)
