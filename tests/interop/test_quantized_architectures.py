"""int8 checkpoints of every architecture, as transformers + compressed-tensors load them, and all schemes' account of every tensor."""
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from test_gguf import FAMILIES, OVERPROOF, ids, make_model, overproof, reference

# transformers applies compressed-tensors to nn.Linear modules, and to fused experts that were saved one by one.
KEPT = {"granitemoe": "block_sparse_moe"}  # GraniteMoeParallelExperts is no Linear: no loader takes it in 8 bits


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_loads_and_computes_nearly_the_same(family, tmp_path):
    model = make_model(family, tmp_path / "fp32")
    done = overproof("quantize", tmp_path / "fp32", tmp_path / "int8", "--scheme", "int8")
    packed = {n.removesuffix("_packed") for n in load_file(tmp_path / "int8" / "model.safetensors") if n.endswith("_packed")}
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    routers = {n for n in linear if n.endswith(("mlp.gate.weight", "shared_expert_gate.weight", "router.layer.weight", "block_sparse_moe.gate.weight"))}
    missed = {n for n in linear - routers if n not in packed and ".experts." not in n}
    assert not missed, missed
    assert not any(n.endswith(("gate.weight", "router.layer.weight")) for n in packed)
    assert (KEPT.get(family.split("-")[0], "....") in done.stdout) == (family.split("-")[0] in KEPT)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "int8", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    parent, child = reference(model, ids()), reference(loaded.eval(), ids())
    off = abs(child - parent).max(axis=1)  # where a router is on the edge a position may be far off
    assert 1e-4 < sorted(off)[len(off) // 2] < 0.15 * parent.std(), sorted(off)[len(off) // 2]


@pytest.mark.parametrize("scheme", ["w8a8", "fp8", "fp8-block", "fp8-native", "mxfp8"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "granitemoe"])
def test_every_tensor_is_accounted_for(family, scheme, tmp_path):
    make_model(family, tmp_path / "fp32")
    done = subprocess.run([OVERPROOF, "quantize", tmp_path / "fp32", tmp_path / "out", "--scheme", scheme, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    before, after = load_file(tmp_path / "fp32" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    quantised = set(metrics["tensors_sqnr"])
    assert metrics["tensors"] == len(before) and metrics["quantised"] == len(quantised) > 0
    for name, tensor in before.items():
        if name not in quantised:
            assert torch.equal(after[name], tensor), name
    assert {n.removesuffix("_scale_inv").removesuffix("_scale").removesuffix("_packed").removesuffix("_shape") for n in after} == set(before)
    overproof("inspect", tmp_path / "out", "--as-model")


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "granitemoe"])
def test_a_model_without_a_row_that_groups_divide_is_int8_by_rows(family, tmp_path):
    make_model(family, tmp_path / "fp32")
    done = overproof("quantize", tmp_path / "fp32", tmp_path / "groups", "--scheme", "int8-g128")
    overproof("quantize", tmp_path / "fp32", tmp_path / "rows", "--scheme", "int8")
    assert "one scale a row" in done.stdout
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "groups" / file).read_bytes() == (tmp_path / "rows" / file).read_bytes()
