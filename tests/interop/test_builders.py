"""Builders of students through the command line: transformers loads what they make, upcycled models have their parent's logits there, lineage
holds, and `plan` counts what the files have."""
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from program import SOURCE, overproof

IDS = torch.randint(0, 257, (80,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builders") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    overproof("tiny-teacher", "--layers", 3, "--hidden-size", 64, "--heads", 4, "--kv-heads", 2, "--intermediate-size", 128, "--seed", 1, "--out",
              folder / "teacher")
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--held-out", 0.25,
              "--out", folder / "corpus")
    overproof("observe", "--teacher", folder / "teacher", "--corpus", folder / "corpus", "--tokens", 1024, "--out", folder / "statistics")
    return folder


def theirs(model):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()(IDS[None]).logits[0]


def ours(model, folder):
    save_file({"ids": IDS.to(torch.int32)}, folder / "ids.safetensors")
    overproof("logits", model, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def metrics_of(artifact):
    return json.loads(overproof("show", artifact, "--json").stdout)["metrics"]


def stored_parameters(model):
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            for name in file.keys():
                size = 1
                for n in file.get_slice(name).get_shape():
                    size *= n
                total += size
    return total


@pytest.mark.parametrize("method", ["random", "order", "cmoe", "expertweaver"])
def test_carved_by_a_published_method(run, tmp_path, method):
    out = run / f"carved-{method}"
    overproof("carve", "--teacher", run / "teacher", "--statistics", run / "statistics", "--method", method, "--experts", 6, "--shared", 2, "--top-k", 2,
              "--out", out)
    metrics = metrics_of(out)
    assert metrics["method"] == method and metrics["certificate"]["holds"] and metrics["ffn_activation"] == 0.5
    assert ("analytic_error" in metrics) == (method == "cmoe")
    assert (ours(out, tmp_path) - theirs(out)).abs().max() < 1e-3
    layers = json.loads((out / "carving.json").read_text())["layers"]
    assert all(layer["tried"][0]["clusters"] == method for layer in layers)
    assert ("specialised" in layers[0]) == (method == "expertweaver")


@pytest.mark.parametrize("options", [["--copies", 4], ["--copies", 3, "--split", 4], ["--copies", 3, "--split", 4, "--top-k", 8, "--seed", 5]])
def test_upcycled_models_have_their_parents_logits_in_transformers(run, tmp_path, options):
    out = run / ("upcycled-" + "-".join(str(o).strip("-") for o in options))
    overproof("upcycle", "--teacher", run / "teacher", *options, "--out", out)
    parent = theirs(run / "teacher")
    bound = 1e-4 * max(1.0, parent.abs().max().item())
    assert (theirs(out) - parent).abs().max() < bound
    assert (ours(out, tmp_path) - parent).abs().max() < bound
    metrics = metrics_of(out)
    assert metrics["exact"] and metrics["certificate"]["holds"] and (out / "certificate.json").exists()
    assert metrics["parameters"] == stored_parameters(out)


def test_upcycling_that_is_not_exact_is_not_certified(run):
    for name, options in (("dropped", ["--copies", 4, "--drop", 0.5]), ("parts", ["--copies", 4, "--split", 4, "--top-k", 1])):
        overproof("upcycle", "--teacher", run / "teacher", *options, "--out", run / name)
        metrics = metrics_of(run / name)
        assert not metrics["exact"] and "certificate" not in metrics and not (run / name / "certificate.json").exists()
        assert (theirs(run / name) - theirs(run / "teacher")).abs().max() > 0.1
    assert metrics_of(run / "parts")["ffn_activation"] == 1 / 16
    assert "divide" in overproof("upcycle", "--teacher", run / "teacher", "--split", 3, "--out", run / "refused", code=2).stderr


def test_shrunk_models_are_ordinary_and_smaller(run, tmp_path):
    for name, options, shape in (("layers", ["--layers", 2], (2, 64, 128, 4, 2)), ("width", ["--intermediate-size", 96], (3, 64, 96, 4, 2)),
                                 ("heads", ["--kv-heads", 1], (3, 64, 128, 2, 1)), ("hidden", ["--hidden-size", 48], (3, 48, 128, 4, 2)),
                                 ("all", ["--layers", 2, "--intermediate-size", 64, "--kv-heads", 1, "--hidden-size", 32], (2, 32, 64, 2, 1))):
        out = run / f"shrunk-{name}"
        overproof("shrink", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 512, *options, "--out", out)
        config = json.loads((out / "config.json").read_text())
        assert config["model_type"] == "llama"
        assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], config["num_attention_heads"],
                config["num_key_value_heads"]) == shape
        assert config["head_dim"] == 16
        assert (ours(out, tmp_path) - theirs(out)).abs().max() < 1e-3
        assert metrics_of(out)["parameters"] == stored_parameters(out) < metrics_of(out)["parent_parameters"]
    assert len(metrics_of(run / "shrunk-layers")["layers_kept"]) == 2
    assert "there are 3" in overproof("shrink", "--teacher", run / "teacher", "--corpus", run / "corpus", "--layers", 4, "--out", run / "refused", code=2).stderr


def test_students_of_every_builder_verify_and_are_made_again(run):
    """Runs last: it looks at what the tests before have made."""
    overproof("audit", "verify", run)
    made = json.loads(overproof("audit", "recompute", run, "--stages", "carve,upcycle,shrink", "--json").stdout)
    statuses = {a["artifact"]: a["status"] for a in made["artifacts"] if a["stage"] in ("carve", "upcycle", "shrink")}
    assert made["holds"] and statuses and set(statuses.values()) == {"equal"}, made


def test_plan_counts_what_the_files_have(run):
    answer = json.loads(overproof("plan", "--model", run / "teacher", "--target-activation", 0.3, "--tokens", "1k", "--bandwidth", 10, "--weights", "f32",
                                  "--most", 50, "--json").stdout)
    assert answer["model"]["parameters"] == stored_parameters(run / "teacher")
    assert not answer["bandwidth_measured"] and answer["bandwidth_bytes_per_second"] == 10e9
    rows = [row for row in answer["students"] if row["kind"] == "upcycle" and row["parameters"] < 3e6]
    assert rows
    for row in rows[:2]:
        assert row["reaches"] and row["active_fraction"] <= 0.3
        out = run.parent / row["commands"][0].replace(" ", "-")
        overproof(*row["commands"][0].split(), "--teacher", run / "teacher", "--out", out)
        assert row["parameters"] == metrics_of(out)["parameters"] == stored_parameters(out)
        assert row["active_parameters"] == metrics_of(out)["active_parameters"]
        assert row["memory_bytes"] == 4 * row["parameters"]
        assert row["decode_tokens_per_second"] == pytest.approx(10e9 / row["bytes_per_token"])
        assert row["needs"][-1]["step"] == "upcycle" and row["needs"][-1]["paid"] is False
    text = overproof("plan", "--model", run / "teacher", "--target-activation", 0.3, "--tokens", "1k", "--bandwidth", 10).stdout
    assert "do not pay for it" in text
    assert "not a number" in overproof("plan", "--model", run / "teacher", "--tokens", "many", code=2).stderr
    overproof("upcycle", "--teacher", run / "teacher", "--copies", 2, "--out", run.parent / "moe")
    assert "dense" in overproof("plan", "--model", run.parent / "moe", code=7).stderr
