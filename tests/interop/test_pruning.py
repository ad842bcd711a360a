"""Pruning by what one observing pass recorded: neurons, weights and experts. The peers are transformers (logits, gradients), llama.cpp, and torch on the
parent's weights with the removed parts switched off.
"""
import json
import os
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import llama_cpp
from program import overproof, write_labelled_texts

RECIPE = """
[teacher]
stage = tiny-teacher
seed = 1
layers = 3
hidden-size = 64
intermediate-size = 192

[corpus]
source = texts
tokenizer = teacher
window-length = 64
held-out = 0.1

[index]
shard-bytes = 4096

[statistics]
stage = observe
tokens = 1024
gradients = true
hessians = true

[student-init]
stage = carve
experts = 11
shared = 1
top-k = 3

[experts]
stage = observe
teacher = student-init
tokens = 1024
"""
ACKNOWLEDGED = ["--acknowledge", "unknown-ancestry,unspecified"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dense teacher and a mixture carved from it, each observed once."""
    folder = tmp_path_factory.mktemp("pruning")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    write_labelled_texts(folder / "texts", ["common"])
    (folder / "recipe.ini").write_text(RECIPE)
    overproof("run", folder / "recipe.ini", "--out", folder / "run")
    return folder / "run"


def open_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(ids[None]).logits[0]


IDS = torch.randint(0, 257, (96,), generator=torch.Generator().manual_seed(3))


def check_loads(out, tmp_path, expected=None, llama=True):
    """transformers, llama.cpp and we give the same logits of the checkpoint."""
    theirs = logits(open_model(out), IDS)
    assert torch.isfinite(theirs).all()
    if expected is not None:
        assert (theirs - expected).abs().max() <= 1e-4
    save_file({"ids": IDS.to(torch.int32)}, tmp_path / "ids.safetensors")
    overproof("logits", out, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    assert (load_file(tmp_path / "logits.safetensors")["logits"] - theirs).abs().max() <= 1e-4
    if llama:
        overproof("export", "--model", out, "--out", tmp_path / f"gguf-{out.name}", "--type", "f32", *ACKNOWLEDGED)
        with llama_cpp.Model(tmp_path / f"gguf-{out.name}" / "model.gguf") as model:
            assert np.abs(model.logits(IDS.tolist()) - theirs.numpy()).max() <= 1e-3
    return theirs


def test_gradients_are_those_of_transformers(run):
    recorded = load_file(run / "statistics" / "statistics.safetensors")
    model = open_model(run / "teacher")
    ids = recorded["tokens"].long().view(-1, 64)
    model(ids, labels=ids).loss.backward()
    for layer, block in enumerate(model.model.layers):
        parts = [block.mlp.gate_proj.weight, block.mlp.up_proj.weight, block.mlp.down_proj.weight]
        elements = [(w * w.grad).abs().detach() for w in parts]
        expected = elements[0].sum(1) + elements[1].sum(1) + elements[2].sum(0)
        assert torch.allclose(recorded[f"layers.{layer}.taylor"], expected, rtol=1e-2, atol=1e-8)


@pytest.mark.parametrize("method", ["active", "flap", "taylor"])
def test_neurons(run, tmp_path, method):
    out = run / f"neurons-{method}"
    told = json.loads(overproof("prune-neurons", "--teacher", run / "teacher", "--statistics", run / "statistics", "--method", method, "--bias", "auto", "--keep", 0.5,
                                "--out", out, "--json").stdout)["metrics"]
    assert told["kept"] == 96 and told["bias"] == (method == "flap")
    # The parent in which the other neurons are switched off, and their mean added.
    recorded, parent = load_file(run / "statistics" / "statistics.safetensors"), open_model(run / "teacher")
    small = load_file(out / "model.safetensors")
    for layer, block in enumerate(parent.model.layers):
        down = block.mlp.down_proj.weight
        score = {"active": recorded[f"layers.{layer}.importance"], "taylor": recorded.get(f"layers.{layer}.taylor"),
                 "flap": recorded[f"layers.{layer}.variance"] * down.detach().double().square().sum(0)}[method]
        gone = torch.ones(192, dtype=torch.bool)
        gone[score.argsort(descending=True, stable=True)[:96]] = False
        mean = recorded[f"layers.{layer}.mean"].double() * gone
        with torch.no_grad():
            if method == "flap":
                block.mlp.down_proj.bias = torch.nn.Parameter((down.double() @ mean).float())
                assert (small[f"model.layers.{layer}.mlp.down_proj.bias"] - block.mlp.down_proj.bias).abs().max() <= 1e-5
            down[:, gone] = 0
    theirs = check_loads(out, tmp_path, logits(parent, IDS))
    assert (theirs - logits(open_model(run / "teacher"), IDS)).abs().max() > 1e-3
    # And it can be recovered: the bias stays.
    overproof("recover", "--student", out, "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 2048, "--out", run / f"recovered-{method}")
    after = load_file(run / f"recovered-{method}" / "model.safetensors")
    assert (method == "flap") == ("model.layers.0.mlp.down_proj.bias" in after)
    check_loads(run / f"recovered-{method}", tmp_path)


@pytest.mark.parametrize("method, sparsity", [("magnitude", "0.5"), ("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("sparsegpt", "2:4")])
def test_weights(run, tmp_path, method, sparsity):
    name = f"weights-{method}-{sparsity.replace(':', '-')}"
    told = json.loads(overproof("prune-weights", "--model", run / "teacher", "--statistics", run / "statistics", "--method", method, "--sparsity",
                                sparsity, "--out", run / name, "--json").stdout)["metrics"]
    assert abs(told["zeros"] - 0.5) < 0.01 and told["by_magnitude"] == 0
    before, after = load_file(run / "teacher" / "model.safetensors"), load_file(run / name / "model.safetensors")
    zeros = {}
    for key, w in after.items():
        if "proj" not in key:
            assert torch.equal(w, before[key])
            continue
        zeros[key] = w == 0
        if sparsity == "2:4":
            assert (zeros[key].view(w.shape[0], -1, 4).sum(2) == 2).all()
        same = torch.equal(w[w != 0], before[key][w != 0])
        assert same == (method != "sparsegpt")
    check_loads(run / name, tmp_path)
    # recover keeps the mask.
    overproof("recover", "--student", run / name, "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 2048, "--out", run / f"recovered-{name}")
    solved = load_file(run / f"recovered-{name}" / "model.safetensors")
    for key, mask in zeros.items():
        assert (solved[key][mask] == 0).all()
        assert torch.equal(solved[key], after[key]) == ("down_proj" not in key)
    check_loads(run / f"recovered-{name}", tmp_path, llama=False)


@pytest.mark.parametrize("method", ["frequency", "reap", "merge"])
def test_experts(run, tmp_path, method):
    out = run / f"experts-{method}"
    told = json.loads(overproof("prune-experts", "--student", run / "student-init", "--statistics", run / "experts", "--method", method, "--keep", 0.6, "--out", out,
                                "--json").stdout)["metrics"]
    assert told["experts_after"] == 7 and len(told["places"]) == 3
    recorded = load_file(run / "experts" / "experts.safetensors")
    if method == "merge":
        for places in told["places"]:
            assert sorted(e for place in places for e in place) == list(range(11))
        expected = None
    else:
        parent = open_model(run / "student-init")
        safe = {(s["layer"], s["expert"]) for s in told["super_experts"]}
        for layer, block in enumerate(parent.model.layers):
            score = recorded[f"layers.{layer}.{'tokens' if method == 'frequency' else 'reap'}"].double()
            for e in range(11):
                score[e] += 1e9 * ((layer, e) in safe)
            kept = score.argsort(descending=True, stable=True)[:7].sort().values.tolist()
            assert told["places"][layer] == [[e] for e in kept]
            for e in set(range(11)) - set(kept):
                block.mlp.gate.e_score_correction_bias[e] = -1e9
        expected = logits(parent, IDS)
    check_loads(out, tmp_path, expected)
    overproof("recover", "--student", out, "--teacher", run / "student-init", "--corpus", run / "corpus", "--tokens", 2048, "--min-tokens", 1, "--out",
              run / f"recovered-experts-{method}")
    check_loads(run / f"recovered-experts-{method}", tmp_path)


def test_every_result_verifies_and_is_made_again_byte_for_byte(run):
    """After the tests above, which made the artifacts."""
    overproof("audit", "verify", run)
    stages = "observe,prune-neurons,prune-weights,prune-experts,recover"
    told = json.loads(overproof("audit", "recompute", run, "--stages", stages, "--json").stdout)
    equal = {a["artifact"] for a in told["artifacts"] if a["status"] == "equal"}
    assert {"statistics", "experts", "neurons-flap", "weights-sparsegpt-2-4", "experts-merge", "recovered-weights-wanda-2-4"} <= equal
    assert told["holds"]


def limited(megabytes, *words, code=0):
    """Runs it with so much memory of its own: heap, stacks and private maps; files that are mapped to be read do not count."""
    limit = megabytes << 20
    return overproof(*words, "--threads", 1, code=code, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))


def test_a_model_larger_than_memory_is_observed_carved_pruned_and_recovered(run, tmp_path):
    config = LlamaConfig(vocab_size=257, hidden_size=512, intermediate_size=2048, num_hidden_layers=40, num_attention_heads=8, num_key_value_heads=8,
                         max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=256, eos_token_id=256)
    torch.manual_seed(1)
    large = tmp_path / "large"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    size = sum(p.numel() for p in model.parameters()) * 4 >> 20  # in f32, as it is computed
    model.save_pretrained(large)
    del model
    (large / "tokenizer.json").write_bytes((run / "teacher" / "tokenizer.json").read_bytes())
    room = 420
    assert size > 1.5 * room
    corpus = ["--corpus", run / "corpus"]
    # What has the whole model in memory fails with so little of it: the limit is one.
    limited(room, "teach", "--teacher", large, *corpus, "--tokens", 512, "--out", tmp_path / "taught", code=None)
    assert not (tmp_path / "taught").exists()
    limited(room, "observe", "--teacher", large, *corpus, "--tokens", 512, "--linears", "--gradients", "--out", tmp_path / "statistics")
    limited(room, "prune-neurons", "--teacher", large, "--statistics", tmp_path / "statistics", "--method", "flap", "--bias", "auto", "--keep", 0.25,
            "--out", tmp_path / "pruned")
    limited(room, "prune-weights", "--model", large, "--statistics", tmp_path / "statistics", "--out", tmp_path / "sparse")
    limited(room, "carve", "--teacher", large, "--statistics", tmp_path / "statistics", "--experts", 7, "--shared", 1, "--top-k", 2, "--refits", 0,
            "--clustering-iterations", 2, "--ranking-steps", 2, "--certificate-tokens", 64, "--out", tmp_path / "carved")
    limited(room, "recover", "--student", tmp_path / "pruned", "--teacher", large, *corpus, "--tokens", 1024, "--out", tmp_path / "recovered")
    with safe_open(tmp_path / "recovered" / "model.safetensors", "pt") as file:
        assert file.get_slice("model.layers.39.mlp.down_proj.weight").get_shape() == [512, 512]
