"""Every named architecture, saved by transformers: names, roles and values of all tensors, from per-expert and from fused files.

The peer's module classes say what a parameter is for; its values, hashed, say which tensor of ours it has become.
"""

import hashlib
import json
import os
import subprocess

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

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
