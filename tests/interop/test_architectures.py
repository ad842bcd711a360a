"""Every named architecture, saved by transformers: names, roles and values of all tensors, from per-expert and from fused files, and what the
decoder and the generator compute with them.

The peer's module classes say what a parameter is for; its values, hashed, say which tensor of ours it has become.
"""

import hashlib
import json
import os
import subprocess

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from program import SOURCE, overproof

OVERPROOF = os.environ["OVERPROOF"]
EXPERTS, LAYERS = 3, 2
COMMON = dict(vocab_size=32, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=4, intermediate_size=24,
              max_position_embeddings=64, tie_word_embeddings=False)
MOE = dict(moe_intermediate_size=10, num_experts_per_tok=2)
MLA = dict(q_lora_rank=8, kv_lora_rank=6, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=5, n_group=1, topk_group=1)
CONFIGS = {
    "llama": dict(attention_bias=True, mlp_bias=True),
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "qwen2_moe": dict(num_experts=EXPERTS, shared_expert_intermediate_size=12, decoder_sparse_step=1, mlp_only_layers=[0], **MOE),
    "qwen3_moe": dict(num_experts=EXPERTS, **MOE),
    "mixtral": dict(num_local_experts=EXPERTS, num_experts_per_tok=2),
    "glm4_moe": dict(n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=1, use_qk_norm=True, n_group=1, topk_group=1, **MOE),
    "deepseek_v3": dict(n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=1, **MOE, **MLA),
    "granitemoe": dict(num_local_experts=EXPERTS, num_experts_per_tok=2),
    "phi3": dict(pad_token_id=None),
    "granite": dict(attention_bias=True, mlp_bias=True),
    "smollm3": dict(attention_bias=True, mlp_bias=True, pad_token_id=None),
    "olmo2": dict(attention_bias=True),
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "stablelm": dict(use_qkv_bias=True, qk_layernorm=True),
    "cohere": dict(attention_bias=True, use_qk_norm=True),
    "deepseek_v2": dict(n_routed_experts=EXPERTS, n_shared_experts=1, first_k_dense_replace=1, **MOE, **MLA),
}


def digest(tensor):
    return hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()


def inspect(folder):
    done = subprocess.run([OVERPROOF, "inspect", "--as-model", "--digests", "--json", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def role_of(module, name):
    kind = type(module).__name__
    if name.endswith("e_score_correction_bias"):
        return "router_bias"
    if name.endswith("bias"):
        return "other"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "Norm" in kind:
        return "norm"
    if "Router" in kind or name.endswith("shared_expert_gate.weight"):
        return "router"
    assert isinstance(module, nn.Linear), (kind, name)
    return "head" if name == "lm_head.weight" else "linear"


def expected_roles(model, model_type):
    """digest -> role, from the modules of the model in memory; fused experts are cut as transformers' conversion cuts them."""
    roles = {}
    for path, module in model.named_modules():
        for name, value in [*module.named_parameters(path, recurse=False), *module.named_buffers(path, recurse=False)]:
            if name not in model.state_dict():
                continue
            if not type(module).__name__.endswith("Experts"):
                roles[digest(value)] = role_of(module, name)
            elif model_type == "granitemoe":
                roles[digest(value)] = "fused_experts"
            else:
                for expert in value:
                    for part in expert.chunk(2) if name.endswith("gate_up_proj") else [expert]:
                        roles[digest(part)] = "expert_linear"
    return roles


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp(request.param)
    config = transformers.AutoConfig.for_model(request.param, **COMMON | CONFIGS[request.param])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape))
    model.save_pretrained(folder / "saved", max_shard_size="3KB")
    (folder / "fused").mkdir()
    save_file({k: v.clone() for k, v in model.state_dict().items()}, folder / "fused/model.safetensors")
    (folder / "fused/config.json").write_text((folder / "saved/config.json").read_text())
    return request.param, folder, model


def stored(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def check(report, saved, roles, model_type):
    assert report["model_type"] == model_type and report["assumption"] == ""
    found = {t["name"]: t for t in report["tensors"]}
    assert len(found) == len(report["tensors"])
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert found[name]["sha256"] == digest(value), name
        assert found[name]["shape"] == list(value.shape), name
        assert found[name]["role"] == roles[digest(value)], name
    assert {t["sha256"] for t in report["tensors"]} == roles.keys()  # no parameter of the model is missing


def test_every_tensor_is_read_under_its_name_and_known_for_what_it_is(case):
    model_type, folder, model = case
    saved = stored(folder / "saved")
    assert (folder / "saved/model.safetensors.index.json").exists()
    check(inspect(folder / "saved"), saved, expected_roles(model, model_type), model_type)


def test_fused_files_are_read_as_the_ones_that_transformers_saves(case):
    model_type, folder, model = case
    names = {t["name"] for t in inspect(folder / "fused")["tensors"]}
    if model_type == "granitemoe":  # stays as it is: nothing else loads
        saved = stored(folder / "fused")
        assert any(name.endswith("experts.gate_up_proj") for name in names)
    else:
        saved = stored(folder / "saved")
        assert not any(name.endswith(("gate_up_proj", "experts.down_proj")) for name in names)
    check(inspect(folder / "fused"), saved, expected_roles(model, model_type), model_type)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "glm4_moe"])
def test_layers_that_predict_further_tokens_are_kept_and_told_apart(model_type, tmp_path):
    tensors = {
        "model.layers.1.mlp.experts.0.up_proj.weight": torch.randn(4, 4),
        "model.layers.2.mlp.experts.0.up_proj.weight": torch.randn(4, 4),
        "model.layers.2.eh_proj.weight": torch.randn(4, 8),
        "model.layers.2.enorm.weight": torch.randn(4),
        "model.layers.2.shared_head.head.weight": torch.randn(8, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "num_hidden_layers": 2, "n_routed_experts": 1}))
    report = {t["name"]: (t["role"], t["sha256"]) for t in inspect(tmp_path)["tensors"]}
    assert report == {name: ("mtp" if ".2." in name else "expert_linear", digest(value)) for name, value in tensors.items()}


def test_an_unknown_model_is_read_with_a_word_on_what_was_assumed(tmp_path):
    config = transformers.OlmoeConfig(**{**COMMON, "num_experts": EXPERTS, "num_experts_per_tok": 2})
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape))
    model.save_pretrained(tmp_path)
    report = inspect(tmp_path)
    assert "'olmoe' is not one of" in report["assumption"]
    roles = expected_roles(model, "olmoe")
    assert {t["sha256"]: t["role"] for t in report["tensors"]} == roles


# What model/ computes, against transformers: whole sequences by the decoder, one token after another by the generator.
TEXT = "The quick brown fox, 12 dogs."
END = 256
COMPUTED = dict(vocab_size=257, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                bos_token_id=None, eos_token_id=END, pad_token_id=None)
ORIGINAL = dict(rope_theta=10000.0, original_max_position_embeddings=32)
SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [1.5 + 0.7 * i for i in range(8)]
EXPERTS_OF = dict(num_experts_per_tok=3, moe_intermediate_size=32)
LEADING = dict(EXPERTS_OF, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1, routed_scaling_factor=1.5, head_dim=16)
LATENT = dict(EXPERTS_OF, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1, num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12,
              qk_rope_head_dim=8, v_head_dim=16)
MULTIPLIERS = dict(attention_multiplier=0.3, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0)
CASES = {
    "llama": dict(),
    "llama-biases": dict(attention_bias=True, mlp_bias=True, head_dim=24),
    "llama-linear": dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)),
    "llama-dynamic": dict(rope_parameters=dict(rope_type="dynamic", factor=3.0, rope_theta=10000.0), max_position_embeddings=24),
    "llama-yarn": dict(rope_parameters=dict(rope_type="yarn", factor=4.0, **ORIGINAL)),
    "llama-yarn-more": dict(rope_parameters=dict(rope_type="yarn", factor=4.0, beta_fast=16.0, beta_slow=2.0, truncate=False, attention_factor=1.3, **ORIGINAL)),
    "llama-llama3": dict(rope_parameters=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)),
    "llama-longrope": dict(rope_parameters=dict(rope_type="longrope", short_factor=SHORT, long_factor=LONG, factor=2.0, **(ORIGINAL | dict(original_max_position_embeddings=20)))),
    "llama-proportional": dict(rope_parameters=dict(rope_type="proportional", rope_theta=10000.0, partial_rotary_factor=0.5, factor=2.0)),
    "mistral": dict(sliding_window=None),
    "mistral-window": dict(sliding_window=7),
    "qwen2": dict(),
    "qwen2-window": dict(use_sliding_window=True, sliding_window=6, max_window_layers=2),
    "qwen3": dict(head_dim=24, attention_bias=True),
    "qwen3-layers": dict(head_dim=16, use_sliding_window=True, sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2),
    "phi3": dict(),
    "phi3-partial": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5), sliding_window=9),
    "phi3-longrope": dict(original_max_position_embeddings=40, rope_parameters=dict(rope_type="longrope", short_factor=SHORT, long_factor=LONG, rope_theta=10000.0)),
    "granite": dict(MULTIPLIERS, attention_bias=True, mlp_bias=True),
    "smollm3": dict(tie_word_embeddings=True),
    "smollm3-window": dict(no_rope_layers=[1, 0, 0, 1], use_sliding_window=True, sliding_window=6, attention_bias=True, tie_word_embeddings=False),
    "olmo2": dict(),
    "olmo2-yarn": dict(attention_bias=True, rope_parameters=dict(rope_type="yarn", factor=2.0, **ORIGINAL)),
    "mixtral": dict(num_local_experts=5, num_experts_per_tok=2),
    "mixtral-window": dict(num_local_experts=5, num_experts_per_tok=2, sliding_window=8, head_dim=24),
    "qwen2_moe": dict(EXPERTS_OF, num_experts=6, shared_expert_intermediate_size=48, mlp_only_layers=[1], norm_topk_prob=True),
    "qwen2_moe-window": dict(EXPERTS_OF, num_experts=6, shared_expert_intermediate_size=48, decoder_sparse_step=2, use_sliding_window=True, sliding_window=6, max_window_layers=3,
                             qkv_bias=False),
    "qwen3_moe": dict(EXPERTS_OF, num_experts=6, head_dim=24, norm_topk_prob=True, mlp_only_layers=[0]),
    "qwen3_moe-window": dict(EXPERTS_OF, num_experts=6, head_dim=16, use_sliding_window=True, sliding_window=7, attention_bias=True),
    "granitemoe": dict(MULTIPLIERS, num_local_experts=5, num_experts_per_tok=2, attention_bias=True),
    "glm4_moe": dict(LEADING, n_group=4, topk_group=2, use_qk_norm=True, attention_bias=True),
    "glm4_moe-plain": dict(LEADING, n_group=1, topk_group=1, norm_topk_prob=False, first_k_dense_replace=2),
    "gemma": dict(head_dim=24, num_key_value_heads=1),
    "gemma2": dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=24, final_logit_softcapping=5.0, attn_logit_softcapping=3.0),
    "gemma2-uncapped": dict(head_dim=16, sliding_window=6, final_logit_softcapping=None, attn_logit_softcapping=None, attention_bias=True),
    "gemma3_text": dict(head_dim=16, sliding_window=6, num_hidden_layers=6, query_pre_attn_scalar=24),
    "gemma3_text-linear": dict(head_dim=16, sliding_window=100, layer_types=["sliding_attention", "full_attention"] * 2, final_logit_softcapping=4.0,
                               rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=5e5), sliding_attention=dict(rope_type="default", rope_theta=1e4))),
    "stablelm": dict(use_qkv_bias=True),
    "stablelm-parallel": dict(qk_layernorm=True, use_parallel_residual=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
    "stablelm-heads": dict(qk_layernorm=True, num_key_value_heads=4),
    "cohere": dict(logit_scale=0.5),
    "cohere-norms": dict(use_qk_norm=True, logit_scale=1.0, attention_bias=True, tie_word_embeddings=False),
    "deepseek_v2": dict(LATENT, topk_method="greedy"),
    "deepseek_v2-groups": dict(LATENT, topk_method="group_limited_greedy", n_group=4, topk_group=2, q_lora_rank=None, routed_scaling_factor=2.0,
                               rope_parameters=dict(rope_type="yarn", factor=4.0, mscale=0.7, mscale_all_dim=0.9, **ORIGINAL)),
    "deepseek_v3": dict(LATENT, n_group=4, topk_group=2),
    "deepseek_v3-halves": dict(LATENT, n_group=1, topk_group=1, rope_interleave=False, q_lora_rank=None, v_head_dim=28, norm_topk_prob=False,
                               rope_parameters=dict(rope_type="yarn", factor=4.0, mscale=1.0, mscale_all_dim=1.0, **ORIGINAL)),
}
MOST = 1e-3  # of the largest logit


def byte_tokenizer():
    """One token for each byte, and one for the end of a text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    assert tokenizer.token_to_id("<|end|>") == END
    return tokenizer


def save_tokenizer(folder):
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}))


def make_model(case, folder, options=None):
    torch.manual_seed(11)
    config = transformers.AutoConfig.for_model(case.split("-")[0], **{**COMPUTED, **(options or CASES[case])})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name or "embed_scale" in name:
                continue
            # Logits spread by more than one, and experts are chosen clearly.
            scale = 0.1 if "correction" in name else 0.3 if x.dim() == 1 or "_norm" in name else 1.2 / x.shape[-1] ** 0.5
            x.copy_(torch.randn_like(x) * scale + ("norm" in name and "bias" not in name and not case.startswith("gemma")))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def our_logits(folder, ids, scratch):
    save_file({"ids": ids.to(torch.int32)}, scratch / "ids.safetensors")
    overproof("logits", folder, "--ids", scratch / "ids.safetensors", "--out", scratch / "logits.safetensors")
    return load_file(scratch / "logits.safetensors")["logits"]


def documented():
    """docs/student.md's table: what each model type can be used for."""
    text = (SOURCE / "docs/student.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("## Architectures")[1].split("## Builders")[0].splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): dict(zip(("train", "carve", "upcycle", "gguf"), row[2:])) for row in rows}


def test_the_documented_architectures_are_those_that_are_computed():
    assert documented().keys() == {case.split("-")[0] for case in CASES} == CONFIGS.keys()


# The plain form of those whose first case is not.
PLAIN = {"qwen3": dict(head_dim=24), "glm4_moe": dict(LEADING, first_k_dense_replace=0, n_group=1, topk_group=1, partial_rotary_factor=1.0),
         "qwen2_moe": dict(EXPERTS_OF, num_experts=6, shared_expert_intermediate_size=48), "qwen3_moe": dict(EXPERTS_OF, num_experts=6, head_dim=24, norm_topk_prob=True),
         "deepseek_v3": dict(LATENT, n_group=4, topk_group=2)}


@pytest.mark.parametrize("model_type", sorted({case.split("-")[0] for case in CASES}))
def test_inspect_reports_what_is_documented(model_type, tmp_path):
    make_model(model_type, tmp_path / "hf", PLAIN.get(model_type))
    done = overproof("inspect", tmp_path / "hf", "--json")
    limits = json.loads(done.stdout)["summary"]["limits_by_use"]
    assert limits.pop("run") is None
    assert {use: "no" if cause else "yes" for use, cause in limits.items()} == documented()[model_type]
    shown = overproof("inspect", tmp_path / "hf").stdout
    assert all(cause in shown for cause in limits.values() if cause)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_are_those_of_transformers(case, tmp_path):
    model = make_model(case, tmp_path / "hf")
    ids = torch.randint(0, COMPUTED["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want = model(ids).logits
    assert want.std() > 0.3
    off = (our_logits(tmp_path / "hf", ids, tmp_path).view_as(want) - want).abs().max() / want.abs().max()
    prompt = torch.tensor([byte_tokenizer().encode(TEXT).ids])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager")  # RoPE of type dynamic remembers lengths
    with torch.no_grad():
        text = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False, pad_token_id=0)[0, prompt.shape[1]:]
    ours = json.loads(overproof("generate", tmp_path / "hf", "--prompt", TEXT, "--max-tokens", 16, "--json").stdout)["ids"]
    print(f"{case}: {off:.1e} of the largest logit")
    assert off <= MOST and ours == [i for i in text.tolist() if i != END]


NULLS = {
    "deepseek_v3": dict(norm_topk_prob=None),
    "deepseek_v3-halves": dict(rope_interleave=None, norm_topk_prob=None),
    "granitemoe": dict(attention_multiplier=None),
    "llama-yarn": dict(rope_parameters=dict(rope_type="yarn", factor=4.0, truncate=None, beta_fast=None, attention_factor=None, **ORIGINAL)),
    "cohere": dict(use_qk_norm=None),
}


@pytest.mark.parametrize("case", NULLS)
def test_null_is_what_transformers_makes_of_none(case, tmp_path):
    make_model(case, tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | NULLS[case]))
    ids = torch.randint(0, COMPUTED["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(3))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        want = model(ids).logits
    assert (our_logits(tmp_path / "hf", ids, tmp_path).view_as(want) - want).abs().max() <= MOST * want.abs().max()


@pytest.mark.parametrize("case", ["llama", "qwen2"])
def test_a_model_whose_tokens_see_later_ones_is_refused(case, tmp_path):
    make_model(case, tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    config = json.loads(file.read_text())
    ids = torch.randint(0, COMPUTED["vocab_size"], (1, 40), generator=torch.Generator().manual_seed(3))
    found = []
    for value in (True, False):
        file.write_text(json.dumps(config | {"is_causal": value}))
        with torch.no_grad():
            found.append(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()(ids).logits)
    assert (found[0] - found[1]).abs().max() > 0.3  # the peer reads the key
    save_file({"ids": ids.to(torch.int32)}, tmp_path / "ids.safetensors")
    for words in (["logits", tmp_path / "hf", "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "x"], ["export", "--model", tmp_path / "hf", "--out", tmp_path / "y", "--acknowledge", "unknown-ancestry,unspecified"]):
        assert "'is_causal' is not true" in overproof(*words, code=3).stderr
    file.write_text(json.dumps(config | {"is_causal": True}))
    assert torch.allclose(our_logits(tmp_path / "hf", ids, tmp_path).view_as(found[0]), found[0], atol=1e-3)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A corpus of bytes, and its training windows."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "tokenizer").mkdir()
    save_tokenizer(folder / "tokenizer")
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("".join(f"{i} green bottles, hanging on the wall. " for i in range(30)))
    (folder / "texts/b.txt").write_text("".join(f"{i * i} is the square of {i}; " for i in range(40)))
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("corpus", "--source", folder / "texts", "--tokenizer", folder / "tokenizer", "--window-length", WINDOW, "--held-out", 0.3, "--out", folder / "corpus")
    stream = load_file(folder / "corpus/tokens.safetensors")["train"].long()
    windows = (len(stream) - 1) // WINDOW
    assert windows > 8
    return folder / "corpus", stream[: windows * WINDOW].view(windows, WINDOW)


WINDOW = 32
OBSERVED = ["phi3-partial", "smollm3-window", "olmo2", "granite", "gemma", "gemma2", "gemma3_text", "stablelm-parallel", "cohere-norms", "mixtral", "qwen2_moe", "granitemoe", "glm4_moe",
            "deepseek_v2-groups", "deepseek_v3"]


@pytest.mark.parametrize("case", OBSERVED)
def test_recorded_inputs_of_linears_are_those_in_transformers(case, texts, tmp_path):
    corpus, windows = texts
    model = make_model(case, tmp_path / "hf")
    most = {}

    def record(name):
        def hook(_, inputs):
            amax = inputs[0].reshape(-1, inputs[0].shape[-1]).abs().amax(0)
            most[name] = torch.maximum(most[name], amax) if name in most else amax
        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("model.layers.") and not name.endswith("shared_expert_gate"):
            module.register_forward_pre_hook(record(name))
    with torch.no_grad():
        model(windows)
    overproof("activations", "--model", tmp_path / "hf", "--corpus", corpus, "--tokens", 1 << 20, "--min-tokens", 0, "--out", tmp_path / "activations")
    with safe_open(tmp_path / "activations/activations.safetensors", "pt") as file:
        groups = json.loads(file.metadata()["groups"])
        for name, expected in most.items():
            found = file.get_tensor(groups[name + ".weight"] + ".amax")
            assert (found - expected).abs().max() <= 1e-3 * expected.max(), name
    weights = {name for name, value in stored(tmp_path / "hf").items() if ".layers." in name and value.ndim == 2 and name.endswith(".weight")}
    routers = {name for name in weights if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight", "router.layer.weight", "shared_expert_gate.weight", "_norm.weight"))}
    assert groups.keys() == weights - routers


# key of the number of experts
PRUNED = {"mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_experts", "granitemoe": "num_local_experts", "glm4_moe-plain": "n_routed_experts",
          "deepseek_v2": "n_routed_experts", "deepseek_v3-halves": "n_routed_experts"}


@pytest.mark.parametrize("case", PRUNED)
def test_experts_of_a_mixture_are_observed_and_removed(case, texts, tmp_path):
    """The peer's model in memory, with the rows of the experts that stay."""
    corpus, windows = texts
    model = make_model(case, tmp_path / "hf")
    experts = getattr(model.config, PRUNED[case])
    overproof("observe", "--teacher", tmp_path / "hf", "--corpus", corpus, "--tokens", 1 << 20, "--out", tmp_path / "seen")
    done = overproof("prune-experts", "--student", tmp_path / "hf", "--statistics", tmp_path / "seen", "--method", "reap", "--keep", 0.6, "--protect-super-experts=false",
                     "--out", tmp_path / "pruned", "--json")
    places = json.loads(done.stdout)["metrics"]["places"]
    left = round(experts * 0.6)
    kept = {layer: [place[0] for place in of_layer] for layer, of_layer in enumerate(places) if of_layer}
    assert kept and all(len(of_layer) == left < experts for of_layer in kept.values())
    with_experts = {int(name.split(".")[2]) for name, x in model.named_parameters() if ".experts." in name}
    assert kept.keys() == with_experts  # layers without experts have no places

    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    setattr(config, PRUNED[case], left)
    expected = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    values, shapes = model.state_dict(), {name: x.shape for name, x in expected.state_dict().items()}
    for name, x in values.items():
        if shapes[name] != x.shape:
            values[name] = x[kept[int(name.split(".")[2])]]
    expected.load_state_dict(values)
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        want, loaded = expected(windows[:4]).logits, found(windows[:4]).logits
    assert torch.equal(want, loaded)
    assert (our_logits(tmp_path / "pruned", windows[:4], tmp_path).view_as(want) - want).abs().max() <= MOST * want.abs().max()

    # Tokens that the router sent to each expert, by the peer's own routers.
    recorded, counts = load_file(tmp_path / "seen/experts.safetensors"), {}
    blocks = [layer.mlp if hasattr(layer, "mlp") else layer.block_sparse_moe for layer in model.model.layers]
    for layer in kept:
        blocks[layer].experts.register_forward_pre_hook(lambda _, inputs, layer=layer: counts.update({layer: inputs[1]}))
    with torch.no_grad():
        model(windows)
    for layer in kept:
        chosen = counts[layer]
        assert recorded[f"layers.{layer}.tokens"].tolist() == torch.bincount(chosen.flatten(), minlength=experts).tolist()


def test_experts_in_groups_stay(texts, tmp_path):
    corpus, _ = texts
    make_model("deepseek_v3", tmp_path / "hf")
    overproof("observe", "--teacher", tmp_path / "hf", "--corpus", corpus, "--tokens", 64, "--out", tmp_path / "seen")
    done = overproof("prune-experts", "--student", tmp_path / "hf", "--statistics", tmp_path / "seen", "--out", tmp_path / "pruned", code=3)
    assert "4 groups of experts" in done.stderr and not (tmp_path / "pruned").exists()


def test_a_teacher_with_soft_caps_and_sandwich_norms_teaches_a_llama(texts, tmp_path):
    """Outputs and hidden states, by a llama that a recipe starts from random weights: the first step's losses are those of transformers."""
    corpus, windows = texts
    teacher = make_model("gemma2", tmp_path / "teacher")
    overproof("pretrain", "--corpus", corpus, "--tokenizer", tmp_path / "teacher", "--layers", 4, "--hidden-size", 64, "--intermediate-size", 96, "--heads", 4, "--kv-heads", 2,
              "--context", 64, "--steps", 1, "--out", tmp_path / "start")
    student = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32).eval()
    done = overproof("distill", "--student", tmp_path / "start", "--corpus", corpus, "--teacher", tmp_path / "teacher", "--loss", "forward-kl=1,hidden-cosine=0.2", "--steps", 1,
                     "--batch-size", len(windows), "--compute", "f32", "--out", tmp_path / "student", "--json")
    found = json.loads(done.stdout)["metrics"]["final"]["terms"]
    with torch.no_grad():
        log_p, log_q = teacher(windows).logits.log_softmax(-1), student(windows).logits.log_softmax(-1)
    assert found["forward-kl"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-3)
    assert 0.5 < found["hidden-cosine"] < 1.5  # of states that have nothing to do with each other
    assert transformers.AutoConfig.from_pretrained(tmp_path / "student").model_type == "llama"


def test_a_student_of_an_architecture_that_is_only_run_is_refused(texts, tmp_path):
    corpus, _ = texts
    make_model("granite", tmp_path / "hf")
    for words in (["distill", "--student", tmp_path / "hf", "--teacher", tmp_path / "hf", "--teacher-share", 1, "--corpus", corpus, "--steps", 1, "--out", tmp_path / "x"],
                  ["shrink", "--teacher", tmp_path / "hf", "--corpus", corpus, "--layers", 2, "--out", tmp_path / "x"],
                  ["upcycle", "--teacher", tmp_path / "hf", "--copies", 2, "--out", tmp_path / "x"]):
        assert "granite can be run, but not trained" in overproof(*words, code=7).stderr
        assert not (tmp_path / "x").exists()
