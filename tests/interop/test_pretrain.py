"""`pretrain` through the command line: transformers loads the model with equal logits, kills, replays, traces, and students of it."""
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from program import SOURCE, count_writes, overproof, stopped

SEED = "00c0ffee"
TINY = ["--layers", 2, "--hidden-size", 32, "--heads", 4, "--kv-heads", 2, "--intermediate-size", 64, "--context", 128]
STEPS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    overproof("tiny-teacher", "--layers", 1, "--hidden-size", 8, "--heads", 1, "--kv-heads", 1, "--intermediate-size", 8, "--out", folder / "tokenizer")
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "tokenizer", "--window-length", 64, "--held-out", 0.25,
              "--out", folder / "corpus")
    pretrain(folder, "own", "--evaluate-every", 10)
    return folder


def words(run, name, *options):
    return ["pretrain", "--corpus", run / "corpus", "--tokenizer", run / "tokenizer", *TINY, "--steps", STEPS, "--batch-size", 4, "--warmup", 5,
            "--learning-rate", 3e-3, "--digest-every", 8, "--keep-every", 16, "--checkpoint-every", 6, "--out", run / name, *options]


def pretrain(run, name, *options):
    return overproof(*words(run, name, *options))


def root_of(folder):
    return json.loads(overproof("show", folder, "--json").stdout)["root"]


def replayed(run, name, *options, code=0):
    return json.loads(overproof("audit", "replay", run, "--artifact", name, "--seed", SEED, "--segments", 2, "--json", *options, code=code).stdout)


def test_it_learns_and_transformers_has_its_logits(run, tmp_path):
    lines = [json.loads(line) for line in (run / "own/steps.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS and abs(lines[0]["loss"] - 5.549) < 0.05  # ln 257: the first weights know nothing
    held_out = [line["held_out"]["cross-entropy"] for line in lines if "held_out" in line]
    assert len(held_out) == 4 and held_out[-1] < held_out[0] < 5.5 and held_out[-1] < 4
    model = AutoModelForCausalLM.from_pretrained(run / "own", dtype=torch.float32).eval()
    assert model.config.model_type == "llama" and model.config.tie_word_embeddings and model.config.max_position_embeddings == 128
    tokenizer = AutoTokenizer.from_pretrained(run / "own")
    assert tokenizer.decode(tokenizer("A pipe é.")["input_ids"]) == "A pipe é."
    ids = torch.randint(0, 257, (96,), generator=torch.Generator().manual_seed(1))
    save_file({"ids": ids.to(torch.int32)}, tmp_path / "ids.safetensors")
    overproof("logits", run / "own", "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = model(ids[None]).logits[0]
    assert (load_file(tmp_path / "logits.safetensors")["logits"] - theirs).abs().max() < 1e-4


def test_a_killed_run_ends_with_the_same_bytes(run):
    pretrain(run, "whole")
    whole = root_of(run / "whole")
    writes = count_writes(*words(run, "counted"), file=run.parent / "writes")
    command = words(run, "killed")
    for part in (3, 2):
        stopped(*command, at_write=writes // part)
        assert not (run / "killed").exists()
    overproof(*command)
    assert root_of(run / "killed") == root_of(run / "counted") == whole
    pretrain(run, "seeded", "--seed", 2)
    assert root_of(run / "seeded") != whole


def test_lineage_and_replay_hold_for_every_type(run):
    pretrain(run, "half", "--dtype", "bf16", "--ema", 0.9)
    overproof("audit", "verify", run)
    for name in ("own", "half"):
        found = replayed(run, name)
        assert found["holds"] and found["segments"] and all(segment["equal"] for segment in found["segments"]), found
        assert found["router_counts"] == "not compared" and found["files_equal"] >= 4
    model = AutoModelForCausalLM.from_pretrained(run / "half")
    assert model.dtype == torch.bfloat16
    lineage = json.loads(overproof("show", run / "own", "--json").stdout)
    assert lineage["kind"] == "pretrained-on" and set(lineage["inputs"]) == {"corpus", "tokenizer"}


def test_documents_are_traced_to_its_steps(run):
    documents = [json.loads(line) for line in (run / "corpus/documents.jsonl").read_text().splitlines()]
    statuses = {}
    for document in documents:
        trace = json.loads(overproof("audit", "trace", run, "--document", SOURCE / "examples/texts" / document["name"], "--json").stdout)
        statuses.setdefault(document["split"], set()).add(trace["status"])
    assert statuses["held_out"] == {"held-out"} and "used" in statuses["train"]


def test_it_is_a_teacher_whose_students_verify(run, tmp_path):
    corpus, own = ["--corpus", run / "corpus"], ["--teacher", run / "own"]
    overproof("observe", *own, *corpus, "--tokens", 1024, "--out", run / "statistics")
    overproof("carve", *own, "--statistics", run / "statistics", "--experts", 7, "--shared", 1, "--top-k", 3, "--out", run / "carved")
    overproof("teach", *own, *corpus, "--tokens", 1280, "--out", run / "targets")
    overproof("distill", "--student", run / "carved", "--targets", run / "targets", *corpus, "--steps", 2, "--out", run / "student")
    overproof("audit", "verify", run)
    bom = json.loads(overproof("audit", "sbom", run / "student", "--format", "cyclonedx").stdout)
    assert any(component["name"] == "own" for component in bom["components"])
    overproof("audit", "report", run, "--out", tmp_path / "report.html")


def with_option(command, option, value):
    command[command.index(option) + 1] = value
    return command


def test_what_does_not_fit_is_refused(run, tmp_path):
    assert "multiple of 2 x heads" in overproof(*with_option(words(run, "refused"), "--heads", 5), code=2).stderr
    assert "windows of 64 tokens" in overproof(*with_option(words(run, "refused"), "--context", 32), code=2).stderr
    overproof("tiny-teacher", "--layers", 1, "--out", tmp_path / "other")
    tokenizer = json.loads((tmp_path / "other/tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {k: (v + 1) % 256 if v < 256 else v for k, v in tokenizer["model"]["vocab"].items()}
    (tmp_path / "swapped").mkdir()
    (tmp_path / "swapped/tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer" in overproof(*with_option(words(run, "refused"), "--tokenizer", tmp_path / "swapped"), code=7).stderr
    assert not (run / "refused").exists()
