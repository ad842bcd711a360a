"""Inputs as people have them and outputs as people name them: links of download caches, blobs without an ending, folders within folders,
finished artifacts, options that cannot work. Each is either read as the loaders read it or refused before anything is written.
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from program import SOURCE, overproof

ACKNOWLEDGED = ["--acknowledge", "unknown-ancestry,unspecified"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model as from outside, its corpus, and the teacher that both came from."""
    folder = tmp_path_factory.mktemp("inputs")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("tiny-teacher", "--layers", 2, "--seed", 1, "--out", folder / "teacher")
    (folder / "base").mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "teacher" / name, folder / "base" / name)
    overproof("corpus", "--source", SOURCE / "examples" / "texts", "--tokenizer", folder / "base", "--window-length", 64, "--held-out", 0.25,
              "--out", folder / "corpus")
    return folder


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()}


def cache_of(base, folder):
    """The layout of the hub's cache: snapshots of links to blobs that are named by their digest."""
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for file in base.iterdir():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, folder / "blobs" / digest)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")
    return snapshot


def test_a_cache_of_links_is_the_model_that_it_points_to(made, tmp_path):
    snapshot = cache_of(made / "base", tmp_path)
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache" / "when").write_text("bookkeeping")
    root = lambda path: json.loads(overproof("show", path, "--json").stdout)["root"]
    for name, place in (("plain", made / "base"), ("cached", snapshot)):
        overproof("import", "--path", place, "--out", tmp_path / name)
        overproof("quantize", place, tmp_path / f"{name}-int8")
        overproof("export", "--model", place, "--type", "f32", "--out", tmp_path / f"{name}-gguf", *ACKNOWLEDGED)
        overproof("corpus", "--source", SOURCE / "examples" / "texts", "--tokenizer", place, "--window-length", 64, "--out", tmp_path / f"{name}-corpus")
        overproof("observe", "--teacher", place, "--corpus", tmp_path / f"{name}-corpus", "--tokens", 128, "--out", tmp_path / f"{name}-statistics")
    for what in ("", "-int8", "-gguf", "-corpus", "-statistics"):
        assert root(tmp_path / f"plain{what}") == root(tmp_path / f"cached{what}"), what
    claims = [json.loads(overproof("show", tmp_path / f"{n}-int8", "--json").stdout)["inputs"] for n in ("plain", "cached")]
    assert claims[0] == claims[1], "the parent is identified by its content"
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/gone")
    for words in (["import", "--path", snapshot, "--out", tmp_path / "x"], ["quantize", snapshot, tmp_path / "x"]):
        assert "leads to no file" in overproof(*words, code=3).stderr
    assert not (tmp_path / "x").exists()


def test_a_link_is_its_target_with_and_without_a_slash(made, tmp_path):
    (tmp_path / "link").symlink_to(made / "base")
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "int8")
    overproof("quantize", tmp_path / "link", tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "int8" / "model.safetensors").exists()
    assert "unchanged" in overproof("quantize", f"{tmp_path}/link/", f"{tmp_path}/out/").stdout
    assert "base: 5 files" in overproof("import", "--path", f"{made}/base/", "--out", tmp_path / "imported").stdout


def test_a_gguf_is_known_by_its_content(made, tmp_path):
    overproof("export", "--model", made / "base", "--type", "f32", "--out", tmp_path / "gguf", *ACKNOWLEDGED)
    blob = tmp_path / hashlib.sha256(b"blob").hexdigest()
    shutil.copy(tmp_path / "gguf" / "model.gguf", blob)
    (tmp_path / "m.gguf").symlink_to(blob)
    shutil.copy(blob, tmp_path / "M.GGUF")
    save_file({"ids": torch.arange(1, 60)}, tmp_path / "ids.safetensors")
    roots = set()
    for i, path in enumerate((blob, tmp_path / "m.gguf", tmp_path / "M.GGUF")):
        overproof("inspect", path)
        overproof("logits", path, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
        overproof("import", "--path", path, "--out", tmp_path / f"imported{i}")
        overproof("logits", tmp_path / f"imported{i}", "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
        overproof("quantize", "--include", "model.layers.*", path, tmp_path / f"int8-{i}")
        roots.add(json.loads(overproof("show", tmp_path / f"int8-{i}", "--json").stdout)["root"])
    assert len(roots) == 1
    shutil.copy(made / "base" / "model.safetensors", tmp_path / "other-blob")
    assert "model.embed_tokens.weight" in overproof("inspect", tmp_path / "other-blob").stdout


@pytest.mark.parametrize("words", [
    ["quantize", "BASE", "BASE/int8"], ["quantize", "BASE", "BASE/new/int8"], ["export", "--model", "BASE", "--out", "BASE/gguf", *ACKNOWLEDGED],
    ["import", "--path", "BASE", "--out", "BASE/imported"], ["quantize", "BASE", "BASE"],
    ["observe", "--teacher", "BASE", "--corpus", "CORPUS", "--tokens", 128, "--out", "BASE/statistics"],
    ["observe", "--teacher", "BASE", "--corpus", "CORPUS", "--tokens", 128, "--out", "CORPUS/statistics"],
    ["tokenizer", "encode", "--tokenizer", "BASE", "--text", "TEXT", "--out", "TEXT"],
    ["tokenizer", "encode", "--tokenizer", "BASE", "--text", "TEXT", "--out", "BASE/ids.safetensors"],
    ["logits", "BASE", "--ids", "IDS", "--out", "IDS"], ["logits", "BASE", "--ids", "IDS", "--out", "BASE/logits.safetensors"],
], ids=lambda words: " ".join(map(str, words[:1] + words[-1:])))
def test_no_output_destroys_an_input(made, tmp_path, words):
    shutil.copytree(made / "base", tmp_path / "base")
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    (tmp_path / "text.txt").write_text("mine " * 50)
    save_file({"ids": torch.arange(1, 60)}, tmp_path / "ids.safetensors")
    places = {"BASE": "base", "CORPUS": "corpus", "TEXT": "text.txt", "IDS": "ids.safetensors"}
    for short, name in places.items():
        words = [str(w).replace(short, str(tmp_path / name)) for w in words]
    before = files_of(tmp_path)
    answer = overproof(*words, code=2)
    assert ("input" in answer.stderr or "seal" in answer.stderr) and files_of(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(places.values())


@pytest.mark.parametrize("words, names", [
    (["audit", "prove", "RUN", "--document", "TEXT", "--out", "TEXT"], "input 'document'"),
    (["audit", "report", "RUN", "--public-key", "PUB", "--out", "PUB"], "input 'public-key'"),
    (["audit", "report", "RUN", "--auditor-key", "PUB", "--out", "PUB"], "input 'auditor-key'"),
    (["audit", "sbom", "RUN/teacher", "--rotations", "ROTATION", "--public-key", "PUB", "--out", "ROTATION"], "input 'rotations'"),
    (["tokenizer", "render", "--tokenizer", "BASE", "--conversations", "TEXT", "--out", "TEXT"], "input 'conversations'"),
    (["tokenizer", "train", "--input", "TEXT", "--vocab-size", 300, "--out", "TEXT"], "input 'input'"),
    (["key", "rotate", "--key", "OLDKEY", "--to", "NEWKEY", "--out", "NEWKEY"], "input 'to'"),
    (["audit", "report", "RUN", "--out", "NEWKEY"], "private key"),
    (["audit", "openlineage", "RUN", "--out", "OLDKEY.note"], "private key"),
    (["logits", "BASE", "--ids", "IDS", "--out", "NEWKEY"], "private key"),
    (["tokenizer", "encode", "--tokenizer", "BASE", "--text", "TEXT", "--out", "RUN/teacher/ids.safetensors"], "seal"),
    (["logits", "BASE", "--ids", "IDS", "--out", "RUN/corpus/texts/l.safetensors"], "seal"),
    (["quantize", "BASE", "RUN/corpus/int8"], "seal"),
    (["audit", "checkpoint", "RUN", "--key", "OLDKEY", "--publish", "RUN/teacher/public"], "seal"),
    (["key", "new", "--out", "RUN/teacher/key.pem"], "seal"),
    (["run", "RECIPE", "--out", "RUN/teacher"], "seal"),
], ids=lambda words: " ".join(map(str, words[:2] + words[-1:])) if isinstance(words, list) else None)
def test_nothing_that_is_written_destroys_a_file_that_is_read_a_key_or_a_seal(made, tmp_path, words, names):
    shutil.copytree(made / "base", tmp_path / "base")
    (tmp_path / "run").mkdir()
    shutil.copytree(made / "teacher", tmp_path / "run" / "teacher")
    overproof("corpus", "--source", SOURCE / "examples" / "texts", "--tokenizer", tmp_path / "run" / "teacher", "--window-length", 64, "--out", tmp_path / "run" / "corpus")
    (tmp_path / "text.txt").write_text("mine " * 50)
    (tmp_path / "recipe.ini").write_text("[teacher]\nstage = tiny-teacher\nlayers = 1\n")
    save_file({"ids": torch.arange(1, 60)}, tmp_path / "ids.safetensors")
    for key in ("old", "new"):
        overproof("key", "new", "--out", tmp_path / f"{key}.pem")
    overproof("audit", "checkpoint", tmp_path / "run", "--name", "example.org", "--key", tmp_path / "old.pem")
    (tmp_path / "key.pub").write_text(overproof("key", "show", "--pem").stdout)
    overproof("key", "rotate", "--key", tmp_path / "old.pem", "--to", tmp_path / "new.pem", "--out", tmp_path / "rotation.json")
    places = {"BASE": "base", "RUN": "run", "TEXT": "text.txt", "IDS": "ids.safetensors", "PUB": "key.pub", "OLDKEY": "old.pem", "NEWKEY": "new.pem",
              "ROTATION": "rotation.json", "RECIPE": "recipe.ini"}
    for short, name in places.items():
        words = [str(w).replace(short, str(tmp_path / name)) for w in words]
    before = files_of(tmp_path)
    answer = overproof(*words, code=2)
    assert files_of(tmp_path) == before
    assert names in answer.stderr, answer.stderr


def test_another_tokenizer_of_the_same_size_is_not_measured(made, tmp_path):
    shutil.copytree(made / "base", tmp_path / "swapped")
    tokenizer = json.loads((tmp_path / "swapped" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (tmp_path / "swapped" / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = ["evaluate", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 64, "--prompts", 0]
    assert "another tokenizer" in overproof(*words, "--models", f"x={tmp_path / 'swapped'}", "--out", tmp_path / "e", code=7).stderr
    (tmp_path / "swapped" / "tokenizer.json").unlink()  # a model without one is taken at its word
    (tmp_path / "swapped" / "tokenizer_config.json").unlink()
    overproof(*words, "--models", f"x={tmp_path / 'swapped'}", "--out", tmp_path / "e")


def test_a_warmup_that_is_longer_than_the_training_is_said(made, tmp_path):
    overproof("observe", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 256, "--out", tmp_path / "statistics")
    overproof("teach", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 256, "--out", tmp_path / "targets")
    overproof("carve", "--teacher", made / "base", "--statistics", tmp_path / "statistics", "--experts", 7, "--top-k", 2, "--out", tmp_path / "student")
    words = ["distill", "--student", tmp_path / "student", "--targets", tmp_path / "targets", "--corpus", made / "corpus", "--steps", 2, "--learning-rate", 1e-3]
    assert "largest rate was 0.0002 of the 0.001 that was asked for" in overproof(*words, "--warmup", 10, "--out", tmp_path / "long").stdout
    assert "within the warmup" not in overproof(*words, "--warmup", 2, "--out", tmp_path / "short").stdout


def test_a_quantization_prints_the_size_of_its_input_once(made, tmp_path):
    size = sum(t.numel() * t.element_size() for t in load_file(made / "base" / "model.safetensors").values()) / 1e9
    for scheme in ("int8", "q8_0"):
        assert f"\n{size:.3f} GB -> " in overproof("quantize", "--scheme", scheme, made / "base", tmp_path / scheme, *ACKNOWLEDGED).stdout


def test_a_prompt_that_does_not_fit_is_refused_before_it_is_printed(made):
    assert overproof("generate", made / "base", "--prompt", "a " * 20000, "--max-tokens", 4, code=2).stdout == ""


def test_a_finished_artifact_and_the_files_in_it_are_not_replaced_unasked(made, tmp_path):
    out = tmp_path / "int8"
    overproof("quantize", made / "base", out)
    before = files_of(out)
    refused = overproof("quantize", "--scheme", "fp8", made / "base", out, code=2)
    assert "another scheme" in refused.stderr and "--force" in refused.stderr and files_of(out) == before
    (out / "NOTES.md").write_text("a model card")
    for force in ([], ["--force"]):
        assert "NOTES.md" in overproof("quantize", "--scheme", "fp8", made / "base", out, *force, code=2).stderr
    assert (out / "NOTES.md").read_text() == "a model card"
    (out / "NOTES.md").unlink()
    overproof("quantize", "--scheme", "fp8", made / "base", out, "--force")
    assert not list(tmp_path.glob(".*")), "nothing is left over"


def test_a_stage_that_is_refused_leaves_nothing(made, tmp_path):
    for words in (["quantize", "--exclude", "*.nosuch.*", made / "base", tmp_path / "x"], ["quantize", "--scheme", "w8a8-static", made / "base", tmp_path / "x"],
                  ["quantize", "--scheme", "fp8-native", "--include", "*.none.*", made / "base", tmp_path / "x"]):
        overproof(*words, code=2)
        assert not list(tmp_path.iterdir()), words


def test_evaluate_measures_every_model_that_was_named_in_either_form(made, tmp_path):
    words = ["evaluate", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 64, "--prompts", 0]
    named, listed = ["--first", made / "base"], ["--models", f"second={made / 'base'}"]
    for i, models in enumerate((named + listed, listed + named)):
        overproof(*words, *models, "--out", tmp_path / str(i))
        assert {m["name"] for m in json.loads((tmp_path / str(i) / "evaluation.json").read_text())["models"]} >= {"first", "second"}
    assert "'first' is given twice" in overproof(*words, *named, "--models", f"first={made / 'base'}", "--out", tmp_path / "x", code=2).stderr


def test_q8_0_obeys_the_policy_of_export(made, tmp_path):
    refused = [overproof("quantize", "--scheme", "q8_0", made / "base", tmp_path / "x", code=4), overproof("export", "--model", made / "base", "--out", tmp_path / "x", code=4)]
    assert all("blocked by policy" in r.stderr and "unknown-ancestry" in r.stderr for r in refused)
    assert not (tmp_path / "x").exists()
    overproof("quantize", "--scheme", "q8_0", made / "base", tmp_path / "x", *ACKNOWLEDGED)
    assert json.loads(overproof("show", tmp_path / "x", "--json").stdout)["metrics"]["policy"]["items"]
    # What cannot be written at all is said first.
    shutil.copytree(made / "base", tmp_path / "gemma")
    config = json.loads((tmp_path / "gemma" / "config.json").read_text())
    (tmp_path / "gemma" / "config.json").write_text(json.dumps(config | {"model_type": "olmoe"}))
    assert "olmoe" in overproof("export", "--model", tmp_path / "gemma", "--out", tmp_path / "y", code=3).stderr


def test_a_prompt_beyond_the_context_is_refused(made, tmp_path):
    shutil.copytree(made / "base", tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    answer = overproof("generate", tmp_path / "short", "--prompt", "abc " * 100, code=2)
    assert "400 tokens" in answer.stderr and "context is 32" in answer.stderr
    done = json.loads(overproof("generate", tmp_path / "short", "--prompt", "abc", "--max-tokens", 200, "--json").stdout)
    assert len(done["ids"]) <= 30 and done["ended_by"] in ("context", "end-of-text")
    assert "is not there" in overproof("generate", tmp_path / "none", "--prompt", "a", code=5).stderr


def test_a_dry_run_tells_memory_disk_and_time(made, tmp_path):
    answer = json.loads(overproof("observe", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 512, "--out", tmp_path / "x", "--dry-run", "--json").stdout)
    assert answer["would"] == "make" and all(answer["estimate"][k] >= 0 for k in ("memory_bytes", "disk_bytes", "seconds")) and answer["estimate"]["memory_bytes"] > 1e6
    text = overproof("quantize", made / "base", tmp_path / "x", "--dry-run").stdout
    assert "would be made; about" in text and "of memory" in text and "of disk" in text
    recipe = tmp_path / "r.ini"
    recipe.write_text(f"[teacher]\nstage = import\npath = {made / 'base'}\n[int8]\nstage = quantize\nmodel = teacher\n")
    text = overproof("run", recipe, "--out", tmp_path / "run", "--dry-run").stdout
    assert text.count("would be made; about") == 2 and "in all about" in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_what_a_budget_keeps_loads(made, tmp_path, scheme):
    from transformers import AutoModelForCausalLM
    overproof("observe", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 512, "--out", tmp_path / "statistics")
    overproof("carve", "--teacher", made / "base", "--statistics", tmp_path / "statistics", "--experts", 7, "--shared", 1, "--top-k", 2, "--certificate-tokens", 128,
              "--out", tmp_path / "student")
    words = ["quantize", "--scheme", scheme, "--kept-dtype", "f32", "--corpus", made / "corpus", tmp_path / "student"]
    all_of_it = json.loads(overproof(*words, tmp_path / "all", "--evaluate", "--json").stdout)["metrics"]["quality"]["kl_mean"]
    made_some = 0
    for i, part in enumerate((0.9, 0.5, 0.1)):
        answer = overproof(*words, tmp_path / str(i), "--kl-budget", part * all_of_it, "--json", code=None)
        if answer.returncode == 6:
            assert scheme == "fp8" or "scheme fp8 can keep" in answer.stderr
            continue
        assert answer.returncode == 0, answer.stderr
        made_some += 1
        kept = {n for n in json.loads(answer.stdout)["metrics"]["kept_for_budget"]}
        assert kept
        for layer in range(2):
            experts = {n for n in kept if f"layers.{layer}.mlp.experts." in n}
            assert len(experts) in ((0,) if scheme == "int8" else (0, 7 * 3))
            for fused in (("q", "k", "v"), ("gate", "up")):
                of = {n for n in kept for m in fused if f"layers.{layer}." in n and f"{m}_proj.weight" in n and ".experts." not in n}
                assert len(of) % len(fused) == 0
        _, info = AutoModelForCausalLM.from_pretrained(tmp_path / str(i), dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert made_some


def test_what_a_teacher_cannot_do_is_said_at_import_and_before_a_run(made, tmp_path):
    rope = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 8.0}
    for name, change, word in (("linear", {"rope_parameters": rope}, "RoPE is of type 'linear'"), ("olmoe", {"model_type": "olmoe"}, "cannot teach")):
        shutil.copytree(made / "base", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
        assert word in overproof("import", "--path", tmp_path / name, "--out", tmp_path / f"{name}-imported").stdout
        (tmp_path / f"{name}.ini").write_text(
            f"[teacher]\nstage = import\npath = {name}\n[corpus]\nsource = {SOURCE / 'examples' / 'texts'}\ntokenizer = teacher\nwindow-length = 64\n"
            "[soft-targets]\nstage = teach\n[statistics]\nstage = observe\n[student]\nstage = carve\n")
        for dry in (["--dry-run"], []):
            answer = overproof("run", tmp_path / f"{name}.ini", "--out", tmp_path / f"{name}-run", *dry, code=None)
            assert answer.returncode in (3, 7) and not (tmp_path / f"{name}-run").exists()
            assert ("of type 'linear'" if name == "linear" else "olmoe") in answer.stderr


@pytest.mark.parametrize("option, stage, what", [("held-out = 0", "evaluate", "held-out"), ("held-out = 0", "calibrate", "held-out"),
                                                 ("held-out = 0.25\nwindow-length = 8192", "distill", "training")])
def test_a_run_ends_at_a_corpus_without_the_windows_that_a_later_step_needs(made, tmp_path, option, stage, what):
    steps = {"evaluate": "", "calibrate": "student = teacher", "distill": "student = teacher\nteacher = teacher"}
    (tmp_path / "r.ini").write_text(f"[teacher]\nstage = import\npath = {made / 'base'}\n[corpus]\nsource = {SOURCE / 'examples/texts'}\n"
                                    f"tokenizer = teacher\n{option}\n[last]\nstage = {stage}\n{steps[stage]}\n")
    refused = overproof("run", tmp_path / "r.ini", "--out", tmp_path / "run", code=7)
    assert f"[last]: needs a {what} window" in refused.stderr
    assert {p.parent.name for p in (tmp_path / "run").glob("*/model.sig")} == {"teacher", "corpus"}


def test_a_vocabulary_that_is_there_twice_is_read_in_the_form_that_can_be_read(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    overproof("tokenizer", "train", "--model", "bpe", "--vocab-size", 320, "--input", SOURCE / "examples" / "texts", "--out", base / "tokenizer.model")
    (base / "tokenizer.json").write_text('{"model": {"type": "BPE", "byte_fallback": true, "vocab": {}, "merges": []}}')
    text = SOURCE / "examples" / "texts" / "pipe.txt"
    for name, place in (("folder", base), ("model", base / "tokenizer.model")):
        overproof("tokenizer", "encode", "--tokenizer", place, "--text", text, "--out", tmp_path / name)
    assert torch.equal(load_file(tmp_path / "folder")["ids"], load_file(tmp_path / "model")["ids"])
    (base / "tokenizer.model").unlink()
    assert "byte_fallback" in overproof("tokenizer", "encode", "--tokenizer", base, "--text", text, "--out", tmp_path / "x", code=3).stderr


def test_files_that_belong_to_the_model_go_along_and_others_are_named(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    for name in ("LICENSE", "NOTICE", "modeling_x.py", "preprocessor_config.json", "chat_template.json", "vocab.txt", "README.md", "figure.png"):
        (base / name).write_text("{}" if name.endswith(".json") else name)
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    done = overproof("quantize", base, tmp_path / "int8").stdout
    kept = set(files_of(tmp_path / "int8"))
    assert kept >= {"LICENSE", "NOTICE", "modeling_x.py", "preprocessor_config.json", "chat_template.json", "vocab.txt", "additional_chat_templates/tool_use.jinja",
                    "generation_config.json"}
    assert "not copied from the model's folder: README.md, figure.png" in done and not kept & {"README.md", "figure.png"}
    (base / "LICENSES").mkdir()
    (base / "LICENSES" / "MIT.txt").write_text("MIT")
    (pathlib.Path(os.fsdecode(os.fsencode(base) + b"/caf\xe9.md"))).write_text("x")
    overproof("quantize", base, tmp_path / "int8-2")
    assert (tmp_path / "int8-2/LICENSES/MIT.txt").read_text() == "MIT"
    next(base.glob("caf*")).unlink()
    overproof("observe", "--teacher", base, "--corpus", made / "corpus", "--tokens", 128, "--out", tmp_path / "statistics")
    for words in (["prune-neurons", "--keep", 0.5], ["carve", "--experts", 7, "--shared", 1, "--top-k", 2]):
        out = tmp_path / words[0]
        said = overproof(*words, "--teacher", base, "--statistics", tmp_path / "statistics", "--out", out).stderr
        assert "not copied from the model's folder: README.md, figure.png" in said, words
        assert (out / "LICENSES/MIT.txt").exists() and (out / "LICENSE").exists(), words


def test_a_configuration_without_a_type_gets_that_of_the_weights(made, tmp_path):
    """Else transformers takes the type of the first tensor that it finds, which may be a scale in f32."""
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    save_file({k: v.bfloat16() for k, v in load_file(base / "model.safetensors").items()}, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    (base / "config.json").write_text(json.dumps(config))
    for scheme in ("int8", "fp8"):
        overproof("quantize", "--scheme", scheme, base, tmp_path / scheme)
        assert json.loads((tmp_path / scheme / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_gguf_without_a_tokenizer_is_quantized_without_one(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    for file in base.glob("tokenizer*"):
        file.unlink()
    overproof("export", "--model", base, "--out", tmp_path / "gguf", *ACKNOWLEDGED)
    said = overproof("quantize", tmp_path / "gguf/model.gguf", tmp_path / "int8").stderr
    assert "has no tokenizer" in said and not list((tmp_path / "int8").glob("tokenizer*"))


def test_values_that_a_format_cannot_hold_are_not_called_infinite(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = 9e6
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    said = overproof("quantize", "--scheme", "q8_0", base, tmp_path / "q8_0", *ACKNOWLEDGED, code=3).stderr
    assert "row 3 holds values that are too large for the scales of scheme q8_0" in said
    weights["model.layers.0.input_layernorm.weight"] = weights["model.layers.0.input_layernorm.weight"].double()
    weights["model.layers.0.input_layernorm.weight"][5] = 1e300  # no f32, which loaders would make of it
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    assert "input_layernorm.weight row 5" in overproof("quantize", base, tmp_path / "int8", code=3).stderr


def signing_key(folder):
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "k.pem"], check=True)
    subprocess.run(["openssl", "ec", "-in", folder / "k.pem", "-pubout", "-out", folder / "k.pub"], check=True, capture_output=True)
    (folder / "k.pem").chmod(0o600)
    return folder / "k.pem", folder / "k.pub"


def peer(*words):
    return subprocess.run([sys.executable, "-m", "model_signing", *map(str, words)], capture_output=True, text=True)


def test_sign_overwrites_a_signature_and_nothing_else(made, tmp_path):
    private, public = signing_key(tmp_path)
    shutil.copytree(made / "base", tmp_path / "m")
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copytree(made / "base", tmp_path / "other")
    overproof("sign", tmp_path / "other", "--key", private)
    before = files_of(tmp_path)
    for words in (["--signature", private], ["--signature", tmp_path / "notes.txt"], ["--cache", private], ["--cache", public],
                  ["--cache", tmp_path / "notes.txt"], ["--cache", tmp_path / "other/model.safetensors"], ["--cache", tmp_path / "other/config.json"],
                  ["--cache", tmp_path / "other/model.sig"],
                  ["--signature", "x.sig"], ["--cache", "digests"]):
        overproof("sign", tmp_path / "m", "--key", private, *words, code=2, cwd=tmp_path / "m")
        assert files_of(tmp_path) == before, words
    for _ in range(2):  # the second replaces the first
        overproof("sign", ".", "--key", private, "--signature", "../m.sig", "--cache", "../cache.json", cwd=tmp_path / "m")
        assert peer("verify", "key", tmp_path / "m", "--signature", tmp_path / "m.sig", "--public_key", public).returncode == 0
    (tmp_path / "link").symlink_to(tmp_path / "m")
    overproof("sign", tmp_path / "link", "--key", private)
    assert peer("verify", "key", tmp_path / "m", "--signature", tmp_path / "m" / "model.sig", "--public_key", public).returncode == 0


def test_what_does_not_exist_is_5_and_a_name_that_is_not_utf8_is_named(made, tmp_path):
    private, _ = signing_key(tmp_path)
    for words in (["show"], ["sign"], ["inspect"], ["audit", "verify"], ["generate", "--prompt", "A"]):
        assert "nowhere" in overproof(*words, tmp_path / "nowhere", code=5).stderr, words
    shutil.copytree(made / "base", tmp_path / "m")
    (pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/m/caf\xe9.txt"))).write_text("x")
    assert "caf" in overproof("sign", tmp_path / "m", "--key", private, code=3).stderr
    assert not (tmp_path / "m/model.sig").exists()


def test_a_model_from_outside_next_to_its_import_stops_nothing(made, tmp_path):
    """The chain ends at the files from outside: verify states it, the policy asks for it, and no import is taken for what was read."""
    run = tmp_path / "run"
    overproof("quantize", made / "base", run / "q")
    for _ in range(2):
        verified = overproof("audit", "verify", run).stdout
        assert "files from outside that have no statement" in verified and "whole chain" not in verified
        refused = overproof("export", "--model", run / "q", "--out", tmp_path / "refused", code=4)
        assert "unknown-ancestry" in refused.stdout + refused.stderr
        overproof("export", "--model", run / "q", "--out", tmp_path / "g", "--acknowledge", "unknown-ancestry", "--force")
        report = json.loads(overproof("audit", "report", run, "--format", "json", "--out", "-").stdout)
        assert {c["id"]: c["status"] for c in report["claims"]}["inputs-here"] == "recorded"
        overproof("import", "--path", made / "base", "--license", "MIT", "--out", run / "teacher")
    policy = overproof("audit", "policy", run / "q", code=4)
    assert "unknown-ancestry" in policy.stdout and "MIT" not in policy.stdout


def test_a_signature_of_the_peer_is_read_by_its_own_rules(made, tmp_path):
    private, public = signing_key(tmp_path)
    model = tmp_path / "m"
    shutil.copytree(made / "base", model)
    (model / "NOTES.md").write_text("hi")
    (model / "logs").mkdir()
    (model / "logs" / "x.txt").write_text("a")
    assert peer("sign", "key", model, "--private_key", private, "--signature", model / "model.sig", "--ignore-paths", model / "NOTES.md",
                "--ignore-paths", model / "logs").returncode == 0
    assert peer("verify", "key", model, "--signature", model / "model.sig", "--public_key", public).returncode == 0
    answer = overproof("audit", "verify", model, "--public-key", public)
    assert "does not cover" in answer.stdout and "NOTES.md" in answer.stdout and "logs" in answer.stdout and "the signature hold" in answer.stdout
    (model / "added").write_text("x")
    assert "added" in overproof("audit", "verify", model, "--public-key", public, code=4).stdout
    (model / "added").unlink()

    (model / "model.sig").unlink()
    (model / "linked.json").symlink_to("config.json")
    assert peer("sign", "key", model, "--private_key", private, "--signature", model / "model.sig", "--allow_symlinks").returncode == 0
    overproof("audit", "verify", model, "--public-key", public)
    (model / "linked.json").unlink()
    (model / "linked.json").symlink_to("tokenizer.json")
    assert "linked.json" in overproof("audit", "verify", model, "--public-key", public, code=4).stdout


@pytest.mark.parametrize("spelling", ["explicit.pub", "compressed.pub"])
def test_a_public_key_is_its_value(made, tmp_path, spelling):
    private, public = signing_key(tmp_path)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", tmp_path / spelling,
                    *(["-param_enc", "explicit"] if spelling == "explicit.pub" else ["-conv_form", "compressed"])], check=True, capture_output=True)
    shutil.copytree(made / "base", tmp_path / "m")
    assert peer("sign", "key", tmp_path / "m", "--private_key", private, "--signature", tmp_path / "m" / "model.sig").returncode == 0
    overproof("audit", "verify", tmp_path / "m", "--public-key", tmp_path / spelling)


def test_a_key_with_explicit_parameters_signs_what_others_verify(made, tmp_path):
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-param_enc", "explicit", "-noout", "-out", tmp_path / "ex.pem"], check=True)
    subprocess.run(["openssl", "ec", "-in", tmp_path / "ex.pem", "-pubout", "-param_enc", "named_curve", "-out", tmp_path / "ex.pub"], check=True, capture_output=True)
    (tmp_path / "ex.pem").chmod(0o600)
    shutil.copytree(made / "base", tmp_path / "m")
    overproof("sign", tmp_path / "m", "--key", tmp_path / "ex.pem")
    assert peer("verify", "key", tmp_path / "m", "--signature", tmp_path / "m" / "model.sig", "--public_key", tmp_path / "ex.pub").returncode == 0


def test_options_that_are_not_utf8_are_refused_as_such(made, tmp_path):
    latin = os.fsdecode(b"caf\xe9")
    assert "UTF-8" in overproof("import", "--path", made / "base", "--out", tmp_path / "x", "--name", latin, code=2).stderr
    assert "UTF-8" in overproof("quantize", made / "base", os.fsencode(tmp_path).decode() + "/" + latin, code=2).stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_behind_standard_output_is_no_success(made):
    with open("/dev/full", "w") as full:
        done = subprocess.run([os.environ["OVERPROOF"], "inspect", made / "base"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5 and "standard output" in done.stderr


def test_a_limit_on_the_size_of_files_is_an_error_with_a_message(made, tmp_path):
    done = subprocess.run(["bash", "-c", f"ulimit -f 100; exec '{os.environ['OVERPROOF']}' quantize '{made / 'base'}' '{tmp_path / 'x'}'"], capture_output=True, text=True)
    assert done.returncode == 5 and "too large" in done.stderr.lower()


def test_a_training_can_be_watched_and_what_it_leaves_is_listed(made, tmp_path):
    run = tmp_path / "run"
    overproof("teach", "--teacher", made / "base", "--corpus", made / "corpus", "--tokens", 512, "--out", run / "targets")
    words = ["distill", "--student", made / "base", "--targets", run / "targets", "--corpus", made / "corpus", "--steps", 6, "--checkpoint-every", 2, "--batch-size", 1]
    done = overproof(*words, "--out", run / "student")
    assert "the log of the steps so far is" in done.stderr and "steps.jsonl" in done.stderr
    assert "nothing is left over" in overproof("scratch", run).stdout
    (run / ".other.scratch-0123456789abcdef").mkdir()
    (run / ".other.scratch-0123456789abcdef" / "state").write_bytes(b"x" * 1000)
    assert json.loads(overproof("scratch", run, "--json").stdout)["bytes"] == 1000
    overproof("scratch", run, "--clear")
    assert not list(run.glob(".*"))


def test_files_that_another_tool_signs_and_ours_do_not_are_covered(made, tmp_path):
    private, public = signing_key(tmp_path)
    model = tmp_path / "m"
    shutil.copytree(made / "base", model)
    (model / ".gitattributes").write_text("* text")
    assert peer("sign", "key", model, "--private_key", private, "--signature", model / "model.sig", "--no-ignore-git-paths").returncode == 0
    assert "no signature covers" not in overproof("audit", "verify", model, "--public-key", public).stdout
    (model / ".gitignore").write_text("x")
    assert "no signature covers m/.gitignore" in overproof("audit", "verify", model, "--public-key", public, code=None).stdout


def test_vocabularies_are_compared_before_a_model_runs(made, tmp_path):
    padded = tmp_path / "padded"
    shutil.copytree(made / "base", padded)
    weights = load_file(padded / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(63, weights[name].shape[1])])
    save_file(weights, padded / "model.safetensors", {"format": "pt"})
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": 320}))
    said = overproof("evaluate", "--teacher", made / "base", "--models", f"x={padded}", "--corpus", made / "corpus", "--out", tmp_path / "e", code=7).stderr
    assert "vocabulary sizes differ: teacher 257, model 'x' 320" in said and "tokens/s" not in said
