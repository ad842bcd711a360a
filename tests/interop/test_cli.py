"""The command line: help, hints, exit codes, the reference page, the recipes in examples/."""
import fcntl
import hashlib
import json
import math
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from program import OVERPROOF, SOURCE, inherited, overproof


def run(*words, **more):
    return overproof(*words, code=None, timeout=120, **more)


def groups():
    """The verbs of each group of the help, by its title."""
    blocks = run("--help").stdout.split("\nWhere to start\n")[1].split("\n\n")[1:]
    titled = {lines[0]: [line[2:20].strip() for line in lines[1:] if line[2:3].strip()] for lines in (b.strip("\n").splitlines() for b in blocks)}
    return {title: names for title, names in titled.items() if title != "Exit codes" and names}


def verbs():
    return [name for names in groups().values() for name in names]


def test_verbs_are_in_groups_and_a_call_without_any_names_where_to_start():
    assert groups()["Make a run from a recipe"] == ["run"]
    assert {"generate", "inspect", "show"} <= set(groups()["Use and look at models"])
    assert all(name.startswith("audit ") for name in groups()["Audit a run"])
    assert len(groups()) >= 7 and max(len(names) for title, names in groups().items() if title != "Audit a run") < 10
    assert len(verbs()) == len(set(verbs())) == run("reference").stdout.count("\n## ") - run("reference").stdout.count("\n## Options of ") - 1
    alone = run()
    assert alone.returncode == 2 and alone.stdout == "" and "Where to start" in alone.stderr and "Exit codes\n" not in alone.stderr
    assert all(len(line) <= 125 for line in alone.stderr.splitlines())
    for command in alone.stderr.split("Where to start\n")[1].split("\n\n")[0].splitlines():
        assert command.startswith("  overproof ") and len(command.split("   ")[-1].strip()) > 10
    assert run("help", "quantize").stdout == run("quantize", "--help").stdout


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


# Exit codes: one test for each kind of fault. 2 is test_mistakes_are_met_with_a_hint.

def fault(code, kind, *words, **more):
    """Runs a command that must fail, and checks that code, kind and messages agree."""
    answer = run(*words, "--json", **more)
    assert answer.returncode == code, answer.stderr
    reported = json.loads(answer.stdout.splitlines()[-1])
    assert reported["error"] == kind and reported["exit_code"] == code
    assert answer.stderr.startswith("overproof: ") and reported["message"].split("\n")[0] in answer.stderr
    return reported["message"]


LLAMA = SOURCE / "tests/golden/decoder/llama"


@pytest.fixture
def key(tmp_path):
    return ["--key", tmp_path / "key.pem"]


def test_usage_is_2(tmp_path, key):
    fault(2, "usage", "quantize", "--model", tmp_path, *key)
    (tmp_path / "recipe.ini").write_text("[x]\nstage = nonsense\n")
    fault(2, "usage", "run", tmp_path / "recipe.ini", *key)


def test_a_bad_file_is_3(tmp_path, key):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    message = fault(3, "format", "quantize", "--model", tmp_path / "bad", "--out", tmp_path / "o", *key)
    assert "model.gguf" in message and "byte" in message
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".o.scratch-")) == ["bad", "key.pem"]


def test_a_statement_that_does_not_hold_is_4(tmp_path, key):
    overproof("import", "--path", LLAMA, "--out", tmp_path / "teacher", *key)
    (tmp_path / "teacher" / "config.json").write_text("{}")
    fault(4, "provenance", "quantize", "--model", tmp_path / "teacher", "--out", tmp_path / "o", *key)
    answer = run("audit", "verify", tmp_path / "teacher")
    assert answer.returncode == 4, "a finding of an audit has the same code"


def test_a_missing_file_is_5(tmp_path, key):
    fault(5, "io", "quantize", "--model", tmp_path / "missing", "--out", tmp_path / "o", *key)


def test_an_artifact_that_another_process_builds_is_5(tmp_path, key):
    with open(tmp_path / ".teacher.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = fault(5, "io", "import", "--path", LLAMA, "--out", tmp_path / "teacher", *key)
        assert message.startswith(f"{tmp_path}/teacher: another overproof process")
    overproof("import", "--path", LLAMA, "--out", tmp_path / "teacher", *key)
    assert not (tmp_path / ".teacher.lock").exists()


def test_a_bound_that_is_not_kept_is_6(tmp_path, key):
    overproof("tiny-teacher", "--out", tmp_path / "teacher", *key)
    text = SOURCE / "examples/texts/river.txt"
    message = fault(6, "quality", "quantize", "--model", tmp_path / "teacher", "--text", text, "--max-kl", 1e-12, "--out", tmp_path / "int8", *key)
    assert "max-kl" in message
    assert not (tmp_path / "int8").exists()


def tiny_world(folder, key):
    """A teacher of one layer and a corpus."""
    overproof("tiny-teacher", "--layers", 1, "--out", folder / "teacher", *key)
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--out", folder / "corpus", *key)


def test_inputs_that_do_not_belong_together_are_7(tmp_path, key):
    tiny_world(tmp_path, key)
    overproof("tiny-teacher", "--layers", 1, "--seed", 2, "--out", tmp_path / "other", *key)
    overproof("observe", "--teacher", tmp_path / "other", "--corpus", tmp_path / "corpus", "--tokens", 64, "--out", tmp_path / "statistics", *key)
    fault(7, "mismatch", "prune-neurons", "--teacher", tmp_path / "teacher", "--statistics", tmp_path / "statistics", "--out", tmp_path / "o", *key)


def test_numbers_that_are_not_finite_are_8(tmp_path, key):
    tiny_world(tmp_path, key)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(tmp_path / "teacher" / name, broken / name)
    data = bytearray((broken / "model.safetensors").read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    norm = json.loads(data[8:8 + length])["model.norm.weight"]
    teach = ["teach", "--teacher", broken, "--corpus", tmp_path / "corpus", "--tokens", 64, "--out", tmp_path / "targets", *key]
    # A weight that is no number is a fault of the file; finite weights whose logits overflow are not.
    for weight, expected in ((float("nan"), (3, "format")), (3e38, (8, "divergence"))):
        for at in range(*norm["data_offsets"], 4):
            struct.pack_into("<f", data, 8 + length + at, weight)
        (broken / "model.safetensors").write_bytes(data)
        fault(*expected, *teach)
    assert not (tmp_path / "targets").exists()


def test_an_interrupt_is_130(tmp_path, key):
    words = [OVERPROOF, "run", SOURCE / "examples/kill-test.ini", "--out", tmp_path / "run", *key, "--json"]
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=inherited()) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run/.student.partial").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["error"] == "interrupted"
    assert "Run the same command to resume" in err
    assert not (tmp_path / "run/student").exists() and not (tmp_path / "run/.student.partial").exists()


def test_the_exit_codes_are_listed():
    for page in (run("--help").stdout, run("reference").stdout):
        for kind in ("usage", "format", "provenance", "io", "quality", "mismatch", "divergence", "interrupted", "internal"):
            assert kind in page.split("xit codes")[1]


# Two programs.

def loads_libtorch(*words):
    """Whether the dynamic linker loads libtorch for a command, by its own log."""
    answer = run(*words, env={"LD_DEBUG": "files"})
    assert "calling init" in answer.stderr, "the dynamic linker writes no log"
    return "libtorch" in answer.stderr


def test_what_does_not_need_libtorch_starts_without_it(tmp_path, key):
    for words in (["--version"], ["--help"], ["reference"], ["inspect", LLAMA], ["import", "--path", LLAMA, "--out", tmp_path / "teacher", *key],
                  ["quantize", "--model", LLAMA, "--out", tmp_path / "int8", *key], ["teach", "--help"],
                  ["run", SOURCE / "examples/kill-test.ini", "--out", tmp_path / "run", "--dry-run", *key]):
        assert not loads_libtorch(*words), words
    assert loads_libtorch("tiny-teacher", "--out", tmp_path / "tiny", *key)


def test_without_the_program_that_has_libtorch_a_stage_that_needs_it_is_refused_before_it_begins(tmp_path, key):
    alone = tmp_path / "bin" / "overproof"
    alone.parent.mkdir()
    shutil.copy(OVERPROOF, alone)
    answer = subprocess.run([alone, "tiny-teacher", "--out", tmp_path / "tiny", *map(str, key)], capture_output=True, text=True, env=inherited())
    assert answer.returncode == 5 and "libtorch" in answer.stderr and "'tiny-teacher'" in answer.stderr
    assert not (tmp_path / "key.pem").exists() and not (tmp_path / "tiny").exists()
    page = subprocess.run([alone, "reference"], capture_output=True, text=True, env=inherited()).stdout
    assert page == run("reference").stdout, "every build lists every stage and verb"


def test_inspect_begins_with_what_a_model_is(tmp_path, key):
    config = json.loads((LLAMA / "config.json").read_text())
    shapes = [t["shape"] for f in json.loads(run("inspect", "--json", LLAMA).stdout)["files"] if f["file"] == "model.safetensors" for t in f["tensors"]]
    parameters = sum(math.prod(shape) for shape in shapes)
    run("import", "--path", LLAMA, "--license", "Apache-2.0", "--out", tmp_path / "teacher", *key)
    run("quantize", tmp_path / "teacher", tmp_path / "int8", *key)
    for folder, license, story in [(LLAMA, None, None), (tmp_path / "teacher", "Apache-2.0", "import: "), (tmp_path / "int8", None, "quantize: ‘teacher’")]:
        summary = json.loads(run("inspect", "--json", folder).stdout)["summary"]
        assert summary["model_type"] == config["model_type"] and summary["parameters"] == parameters
        assert summary["bytes_in_bf16"] == 2 * parameters and summary["license"] == license
        assert (summary["made_by"] or "").startswith(story or "") and (summary["made_by"] is None) == (story is None)
        text = run("inspect", folder).stdout
        assert text.startswith("model ") and text.index("\nlicence ") < text.index("\nmade by ") < text.index("model.embed_tokens.weight")
        assert f"{summary['bytes'] / summary['bytes_in_bf16']:.2f} of the same parameters in bf16" in text
    lone = tmp_path / "lone.safetensors"
    shutil.copy(LLAMA / "model.safetensors", lone)
    assert "not read as a model" in run("inspect", lone).stdout
    assert "summary" in json.loads(run("inspect", "--as-model", "--json", LLAMA).stdout)


def test_a_stage_names_whose_signature_its_inputs_have_and_takes_the_key_that_is_trusted(tmp_path, key):
    run("import", "--path", LLAMA, "--out", tmp_path / "teacher", *key)
    (tmp_path / "mine.pub").write_text(run("key", "show", "--pem", *key).stdout)
    run("key", "new", "--out", tmp_path / "other.pem")
    (tmp_path / "other.pub").write_text(run("key", "show", "--pem", "--key", tmp_path / "other.pem").stdout)
    words = ["quantize", tmp_path / "teacher", tmp_path / "int8", "--key", tmp_path / "other.pem"]
    hint = json.loads(run("show", tmp_path / "teacher", "--json").stdout)["signer"]
    stranger = run(*words, "--public-key", tmp_path / "other.pub")
    assert stranger.returncode == 4 and not (tmp_path / "int8").exists()
    trusted = json.loads(run(*words, "--public-key", tmp_path / "mine.pub", "--json").stdout)
    assert trusted["signers"] == [hint] and trusted["signer_trusted"] is True
    again = run(*words)  # unchanged: the answer tells it all the same
    assert f"inputs signed by key {hint}; whose it is was not checked" in again.stdout
    for folder, code in [(LLAMA, 4), (tmp_path / "teacher", 0)]:  # without a statement nothing is signed
        answer = run("quantize", folder, tmp_path / "more", "--force", "--public-key", tmp_path / "mine.pub", *key)
        assert answer.returncode == code and (code == 0 or "no signed statement" in answer.stderr)
    assert run("export", tmp_path / "int8", tmp_path / "x", "--public-key", tmp_path / "mine.pub", *key).returncode == 4  # int8 is of the other
    assert "--public-key path" in run("evaluate", "--help").stdout and "--public-key path" not in run("tiny-teacher", "--help").stdout


def test_a_run_takes_the_key_that_is_trusted_and_names_the_signers(tmp_path, key):
    other = ["--key", tmp_path / "other.pem"]
    for name, words in (("mine", key), ("other", other)):
        run("key", "new", "--out", words[1])
        (tmp_path / f"{name}.pub").write_text(run("key", "show", "--pem", *words).stdout)
    hints = {name: hashlib.sha256((tmp_path / f"{name}.pub").read_bytes()).hexdigest() for name in ("mine", "other")}
    (tmp_path / "model").mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(LLAMA / file, tmp_path / "model" / file)
    (tmp_path / "recipe.ini").write_text("[teacher]\nstage = import\npath = model\n\n[int8]\nstage = quantize\nmodel = teacher\n")
    recipe = [tmp_path / "recipe.ini", "--out", tmp_path / "run"]

    assert f"all is signed by this run's own key {hints['mine']}" in run("run", *recipe, *key).stdout
    # An unsigned model from outside is pinned by its digest, not by a key; a signed one needs the trusted key.
    assert run("run", *recipe, *key, "--public-key", tmp_path / "mine.pub").returncode == 0
    assert run("import", "--path", tmp_path / "model", "--out", tmp_path / "i", *key, "--public-key", tmp_path / "mine.pub").returncode == 4
    overproof("sign", tmp_path / "model", *other)
    refused = run("run", *recipe, *key, "--public-key", tmp_path / "mine.pub", "--force")
    assert refused.returncode == 4 and "must be signed by the key of --public-key" in refused.stderr
    lines = run("run", *recipe, *key, "--public-key", tmp_path / "other.pub", "--json").stdout.splitlines()
    assert json.loads(lines[-1]) == {"signers": sorted(hints.values()), "own_key": hints["mine"], "signer_trusted": True}
    assert "named by --public-key" in run("import", "--path", tmp_path / "model", "--out", tmp_path / "i", *key, "--public-key", tmp_path / "other.pub").stdout

    # Artifacts of another signer are in the run folder: used only with that key; else the output names it.
    again = ["run", *recipe, *other]
    assert f"signed by keys {', '.join(sorted(hints.values()))}; whose it is was not checked" in run(*again, "--set", "int8.scheme=fp8").stdout
    overproof(*again, "--set", "int8.scheme=fp8", "--public-key", tmp_path / "other.pub", code=4)
    theirs = run("run", *recipe, *key, "--set", "int8.scheme=fp8", "--public-key", tmp_path / "mine.pub")
    assert theirs.returncode == 4  # the signed model from outside is the other's


def test_tools_that_read_a_model_check_whose_it_is(tmp_path, key):
    run("tiny-teacher", "--layers", 1, "--out", tmp_path / "teacher", *key)
    run("key", "new", "--out", tmp_path / "other.pem")
    for name, words in (("mine", key), ("other", ["--key", tmp_path / "other.pem"])):
        (tmp_path / f"{name}.pub").write_text(run("key", "show", "--pem", *words).stdout)
    (tmp_path / "unsigned").mkdir()
    for file in (tmp_path / "teacher").iterdir():
        if file.name not in ("claims.jsonl", "model.sig"):
            shutil.copy(file, tmp_path / "unsigned" / file.name)
    save_file({"ids": np.arange(1, 9)}, tmp_path / "ids.safetensors")
    for words in (["generate", "MODEL", "--prompt", "a", "--max-tokens", 1], ["inspect", "MODEL"],
                  ["logits", "MODEL", "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "l.safetensors"]):
        def on(model, trusted):
            return run(*[model if w == "MODEL" else w for w in words], "--public-key", tmp_path / f"{trusted}.pub")
        held = on(tmp_path / "teacher", "mine")
        assert held.returncode == 0 and "named by --public-key" in held.stderr + held.stdout
        assert on(tmp_path / "teacher", "other").returncode == 4
        assert "has no signature" in on(tmp_path / "unsigned", "mine").stderr
        weights = tmp_path / "teacher" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert on(tmp_path / "teacher", "mine").returncode == 4
        weights.write_bytes(data)


def test_a_policy_is_not_asked_about_a_run_of_several_signers(tmp_path, key):
    run("tiny-teacher", "--layers", 1, "--out", tmp_path / "teacher", *key)
    run("key", "new", "--out", tmp_path / "other.pem")
    run("quantize", tmp_path / "teacher", tmp_path / "int8", "--key", tmp_path / "other.pem")
    refused = run("audit", "policy", tmp_path / "int8")
    assert refused.returncode == 4 and "is signed by 2 keys" in refused.stderr


def test_a_renamed_stage_is_refused_with_its_new_name():
    assert "it is now 'carve'" in run("student", "--out", "x").stderr
    assert "'prune-neurons'" in run("prune", "--out", "x").stderr


def test_a_value_set_on_the_command_line_may_be_a_list(tmp_path, key):
    recipe = SOURCE / "examples/kill-test.ini"
    words = ["run", recipe, "--out", tmp_path / "run", "--dry-run", *key, "--set", "student.train=router,norms", "--set", "int8.scheme=fp8"]
    assert run(*words).returncode == 0
    answer = run(*words, "--set", "student.train=router,nroms")
    assert answer.returncode == 2 and "nroms" in answer.stderr


def test_a_flag_is_true_on_the_command_line_and_needs_a_value_in_a_recipe(tmp_path, key):
    (tmp_path / "r.ini").write_text("[teacher]\nstage = import\npath = x\n[int8]\nstage = quantize\nmodel = teacher\nevaluate =\n")
    answer = run("run", tmp_path / "r.ini", "--dry-run", *key)
    assert answer.returncode == 2 and "'evaluate'" in answer.stderr and "true or false" in answer.stderr


def test_a_teacher_with_another_digest_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    answer = run("import", "--path", tmp_path / "m.gguf", "--sha256", "0" * 64, "--out", tmp_path / "t", "--key", tmp_path / "k.pem")
    assert answer.returncode == 4 and "sha256" in answer.stderr
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


def run_what_comes_first(recipe):
    """Runs the scripts that the head of a recipe tells its reader to run before it, as it writes them."""
    for command in re.findall(r"^#\s+(examples/\S+\.py\b.*)$", recipe.read_text(), re.MULTILINE):
        subprocess.run([sys.executable, *shlex.split(command)], cwd=SOURCE, check=True)


@pytest.mark.parametrize("recipe", sorted(p.name for p in (SOURCE / "examples").glob("*.ini")))
def test_recipes_that_ship_are_understood(recipe, tmp_path):
    run_what_comes_first(SOURCE / "examples" / recipe)
    answer = run("run", SOURCE / "examples" / recipe, "--out", tmp_path / "run", "--dry-run", "--key", tmp_path / "k.pem")
    assert answer.returncode == 0, answer.stderr
    assert "would be made" in answer.stdout
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    answer = run("quantize", "--model", tmp_path / "file", "--out", tmp_path / "file" / "o", "--key", tmp_path / "k.pem")
    assert answer.returncode in (3, 5)
    assert (tmp_path / "file").read_text() == "x"
