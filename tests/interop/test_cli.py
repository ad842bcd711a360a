"""The command line as its users meet it: help, hints, exit codes, the reference page, the recipes that ship."""
import json

import pytest
from program import SOURCE, overproof


def run(*words, **more):
    return overproof(*words, code=None, timeout=120, **more)


def verbs():
    lines = run("--help").stdout.split("\nVerbs\n")[1].split("\n\n")[0].splitlines()
    return [line[2:20].strip() for line in lines if line[:3].strip()]


def test_reference_page_is_what_the_program_prints():
    printed = run("reference").stdout
    assert printed == (SOURCE / "docs/reference.md").read_text(), "run: overproof reference > docs/reference.md"


def test_every_verb_explains_itself():
    names = verbs()
    assert "run" in names and "audit verify" in names and "distill" in names
    for name in names:
        answer = run(*name.split(), "--help")
        assert answer.returncode == 0
        assert f"overproof {name}" in answer.stdout and "Example" in answer.stdout, name


def test_every_option_is_documented():
    for line in run("reference").stdout.splitlines():
        if line.startswith("| `--"):
            assert line.split("|")[-2].strip(), f"no meaning: {line}"


@pytest.mark.parametrize("words, hint", [
    (["distil"], "did you mean 'distill'?"),
    (["audit", "verfy", "x"], "did you mean 'verify'?"),
    (["audit"], "takes one of"),
    (["run"], "recipe is missing"),
    (["run", "a.ini", "b.ini"], "one argument too many"),
    (["quantize", "--modl", "x"], "did you mean 'model'?"),
    (["quantize", "--model", "x", "--out", "y", "--scheme", "int9"], "did you mean 'int8'?"),
    (["quantize", "--model", "x"], "--out is missing"),
    (["quantize", "--out", "x"], "--model is missing"),
    (["quantize", "--model", "a", "--model", "b", "--out", "x"], "given twice"),
    (["quantize", "--model"], "'--model' is missing"),
])
def test_mistakes_are_met_with_a_hint(words, hint):
    answer = run(*words)
    assert answer.returncode == 2
    assert hint in answer.stderr
    assert answer.stderr.startswith("overproof: ") and answer.stdout == ""


def test_exit_codes_by_kind(tmp_path):
    key = ["--key", tmp_path / "key.pem"]
    assert run("quantize", "--model", tmp_path / "missing", "--out", tmp_path / "o", *key).returncode == 5
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    answer = run("quantize", "--model", tmp_path / "bad", "--out", tmp_path / "o", "--json", *key)
    assert answer.returncode == 3
    assert json.loads(answer.stdout)["error"] == "format"
    assert "model.gguf" in answer.stderr and "byte" in answer.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "key.pem"] or not (tmp_path / "o").exists()


def test_a_teacher_with_another_digest_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    answer = run("import", "--path", tmp_path / "m.gguf", "--sha256", "0" * 64, "--out", tmp_path / "t", "--key", tmp_path / "k.pem")
    assert answer.returncode == 4 and "is asked for" in answer.stderr
    assert not (tmp_path / "t").exists()


def test_the_key_is_made_once_and_is_private(tmp_path):
    key = tmp_path / "deep" / "key.pem"
    for _ in range(2):
        run("quantize", "--model", tmp_path / "missing", "--out", tmp_path / "o", "--key", key)
        text = key.read_text()
        assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text() == text
    key.chmod(0o644)
    answer = run("quantize", "--model", tmp_path / "missing", "--out", tmp_path / "o", "--key", key)
    assert answer.returncode == 4 and "chmod" in answer.stderr


@pytest.mark.parametrize("recipe", sorted(p.name for p in (SOURCE / "examples").glob("*.ini")))
def test_recipes_that_ship_are_understood(recipe, tmp_path):
    answer = run("run", SOURCE / "examples" / recipe, "--out", tmp_path / "run", "--dry-run", "--key", tmp_path / "k.pem")
    assert answer.returncode == 0, answer.stderr
    assert "would be made" in answer.stdout
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    answer = run("quantize", "--model", tmp_path / "file", "--out", tmp_path / "file" / "o", "--key", tmp_path / "k.pem")
    assert answer.returncode in (3, 5)
    assert (tmp_path / "file").read_text() == "x"
