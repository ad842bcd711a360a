"""The whole pipeline on a tiny teacher, through the command line: kills, interrupts, full disks, flipped bits, other runtimes."""
import base64
import json
import os
import pty
import shutil
import signal
import subprocess
import sys

import pytest

from program import OVERPROOF, SOURCE, count_writes, overproof, stopped

RECIPE = SOURCE / "examples" / "kill-test.ini"
SHORT = ["--set", "student.steps=60", "--set", "student.checkpoint-every=7"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the signing key; OVERPROOF_KEY keeps the user's own key out of the tests."""
    folder = tmp_path_factory.mktemp("run")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    return folder


def roots(run):
    """Root of each artifact, as signed."""
    found = {}
    for line in overproof("run", RECIPE, "--out", run, "--json", *SHORT).stdout.splitlines():
        step = json.loads(line)
        if "artifact" not in step:  # the last line: whose signatures were seen
            assert step["signers"] == [step["own_key"]] and step["signer_trusted"]
            continue
        assert step["status"] == "unchanged", step
        found[step["artifact"]] = step["root"]
    return found


@pytest.fixture(scope="module")
def run(base):
    overproof("run", RECIPE, "--out", base / "a", *SHORT)
    return base / "a"


def test_second_run_keeps_everything_and_a_fresh_one_makes_the_same_bytes(run, base):
    first = roots(run)
    assert set(first) >= {"teacher", "corpus", "soft-targets", "student-init", "student", "calibrated", "int8", "evaluation"}
    overproof("run", RECIPE, "--out", base / "again", *SHORT)
    assert roots(base / "again") == first


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_equals_uninterrupted(run, base, kind):
    def copy_without_student(name):
        shutil.copytree(run, base / name)
        shutil.rmtree(base / name / "student")
        return base / name, ["run", RECIPE, "--out", base / name, "--only", "student", *SHORT]

    _, whole = copy_without_student(f"counted-{kind.name}")
    writes = count_writes(*whole, file=base / "writes")
    assert writes > 20
    other, command = copy_without_student(f"killed-{kind.name}")
    for part in (5, 4, 3):  # each run resumes, so each is stopped further on
        stopped(*command, kind=kind, at_write=writes // part)
        assert not (other / "student").exists()
        if kind == signal.SIGINT:
            assert not list(other.glob(".*.partial"))
    overproof("run", RECIPE, "--out", other, *SHORT)
    assert roots(other) == roots(run)
    assert not list(other.glob(".student*")), "scratch, lock or temporary folder left behind"


def test_lineage_holds_and_one_flipped_bit_is_named(run, base):
    assert overproof("audit", "verify", run).returncode == 0
    broken = base / "broken"
    shutil.copytree(run, broken)
    for name in ["teacher/model.safetensors", "corpus/tokens.safetensors", "corpus/documents.jsonl", "soft-targets/targets.safetensors",
                 "student/config.json", "student/steps.jsonl", "int8/model.safetensors"]:
        file = broken / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
        answer = overproof("audit", "verify", broken, code=4)
        assert name.split("/")[0] in answer.stdout and name.split("/")[1] in answer.stdout
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    assert overproof("audit", "verify", broken).returncode == 0
    shutil.rmtree(broken / "corpus")
    assert "corpus" in overproof("audit", "verify", broken, code=4).stdout


def test_model_signing_verifies_every_artifact(run, base):
    public = base / "public.pem"
    subprocess.run(["openssl", "pkey", "-in", os.environ["OVERPROOF_KEY"], "-pubout", "-out", public], check=True)
    for artifact in ["teacher", "corpus", "soft-targets", "student-init", "recovered", "student", "calibrated", "int8"]:
        command = [sys.executable, "-m", "model_signing", "verify", "key", str(run / artifact), "--signature",
                   str(run / artifact / "model.sig"), "--public_key", str(public)]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_recovery_lowers_the_error_of_every_layer_and_is_made_again(run):
    metrics = json.loads(overproof("show", run / "recovered", "--json").stdout)["metrics"]
    assert len(metrics["layers"]) == 4
    assert all(layer["error"] < layer["error_before"] for layer in metrics["layers"])
    made = [json.loads(line) for line in overproof("audit", "recompute", run, "--stages", "recover", "--json").stdout.splitlines()]
    assert "recovered" in json.dumps(made) and "differs" not in json.dumps(made)


def test_trace_finds_steps_and_rows_of_a_document(run):
    documents = [json.loads(line) for line in (run / "corpus" / "documents.jsonl").read_text().splitlines()]
    for document in documents:
        trace = json.loads(overproof("audit", "trace", run, "--document", SOURCE / "examples/texts" / document["name"], "--json").stdout)
        # The 32 windows of the recipe's soft targets hold a part of every training document.
        assert trace["status"] == {"held_out": "held-out", "train": "used"}[document["split"]]
    assert {document["split"] for document in documents} == {"train", "held_out"}
    stranger = json.loads(overproof("audit", "trace", run, "--document", RECIPE, "--json").stdout)
    assert stranger["status"] == "absent"


def on_a_terminal(*words):
    """What the program writes when its standard output is a terminal."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen([OVERPROOF, *map(str, words)], stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # the other side was closed
        pass
    os.close(ours)
    assert program.wait(120) == 0
    return written.decode().replace("\r\n", "\n")


def test_generated_text_cannot_control_a_terminal(run):
    words = ["generate", run / "teacher", "--prompt", "a\x1b[31mb\x9b2J", "--max-tokens", 64, "--temperature", 2]
    raw = overproof(*words).stdout
    assert "\x1b[31m" in raw  # a file, or another program, gets the text as it is
    shown = on_a_terminal(*words)
    controls = {c for c in shown if (ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0}
    assert not controls and "a\ufffd[31mb\ufffd2J" in shown
    assert len(shown) == len(raw)


def test_rows_of_the_teacher_are_made_again(run, base):
    words = ["audit", "rows", "--rows", 8, "--seed", "5f2c9a41", "--json"]
    found = json.loads(overproof(*words, run / "soft-targets", "--record").stdout)
    assert found["holds"] and found["mode"] == "drawn" and len(found["rows"]) == found["rows_equal"] == 8 and found["differing"] == []
    assert [o["caught_at_least"] for o in found["odds"]] == pytest.approx([1 - (1 - o["forged_fraction"]) ** 8 for o in found["odds"]])
    record = json.loads((run / "audits/rows-soft-targets.json").read_text())
    statement = json.loads(base64.b64decode(record["payload"]))
    # Whose signatures were seen is said to the reader, who may trust another key tomorrow; the record does not hold it.
    made = {name: value for name, value in found.items() if name not in ("signers", "signer_trusted")}
    assert statement["predicateType"] == "urn:overproof:audit:rows:v2" and statement["predicate"]["result"] == made
    assert len(found["signers"]) == 1 and found["signer_trusted"] is False
    assert [s["name"] for s in statement["subject"]] == ["soft-targets"] and str(run) not in json.dumps(statement)
    (base / "auditor.pub").write_text(statement["predicate"]["auditor"])
    report = json.loads(overproof("audit", "report", run, "--format", "json", "--out", "-", "--auditor-key", base / "auditor.pub").stdout)
    (claim,) = [c for c in report["claims"] if c["id"] == "rows-soft-targets"]
    assert claim["status"] == "sampled" and f"8 of {found['rows_total']} rows" in claim["how"]
    # Signed by another key than the one that is trusted.
    overproof("key", "new", "--out", base / "stranger.pem")
    (base / "stranger.pub").write_text(overproof("key", "show", "--key", base / "stranger.pem", "--pem").stdout)
    answer = overproof("audit", "rows", run / "soft-targets", "--rows", 1, "--seed", "5f2c9a41", "--public-key", base / "stranger.pub", code=4)
    assert "1 of 1 rows" in answer.stdout and "is signed by key" in answer.stdout
    assert overproof("audit", "rows", run / "soft-targets", "--rows", 1, "--seed", "5f2c9a41", "--public-key", base / "auditor.pub").returncode == 0
    # One draw moved from one id to another, with a header that still adds up, is not what the teacher computed.
    from safetensors import safe_open
    from safetensors.numpy import save_file
    forged = base / "forged"
    forged.mkdir()
    with safe_open(run / "soft-targets" / "targets.safetensors", "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    entries, first = tensors["entries"].copy(), 0
    for row, length in enumerate(tensors["row_lengths"]):
        pair = [int.from_bytes(entries[first + 3 * i:first + 3 * i + 3].tobytes(), "little") for i in range(2)]
        if length >= 2 and pair[0] & 63 > 1:
            break
        first += 3 * int(length)
    for i, word in enumerate([pair[0] - 1, pair[1] + 1]):
        entries[first + 3 * i:first + 3 * i + 3] = list(word.to_bytes(3, "little"))
    tensors["entries"] = entries
    save_file(tensors, forged / "targets.safetensors", metadata)
    answer = overproof("audit", "rows", forged, "--teacher", run / "teacher", "--corpus", run / "corpus", "--row", row, code=4)
    assert "NOT" in answer.stdout
    # It is in no run, so there is no folder for a record of it; the error comes before any work.
    assert "is no run" in overproof("audit", "rows", forged, "--record", code=2).stderr
    answer = overproof("audit", "rows", run / "soft-targets", "--teacher", run / "student", "--seed", "5f2c9a41", code=7)
    assert "teacher" in answer.stderr


def test_bf16_students_load_in_transformers(run, base, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM
    words = ["calibrate", "--student", run / "student", "--teacher", run / "teacher", "--corpus", run / "corpus", "--steps", 0, "--dtype", "bf16"]
    overproof(*words, "--out", base / "bf16")
    model = AutoModelForCausalLM.from_pretrained(base / "bf16", dtype="auto").eval()
    assert model.dtype == torch.bfloat16
    ids = list(range(5, 69))
    # Loaded as f32 the weights are those of the file. As bf16 transformers rounds the router too, which changes the choice near a tie.
    model = AutoModelForCausalLM.from_pretrained(base / "bf16", dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    assert abs(theirs - logits(base / "bf16", ids, tmp_path)).max() <= 1e-3


def test_show_says_again_what_was_said(run):
    text = overproof("show", run / "evaluation").stdout
    assert "evaluated" in text and "perplexity" in text and "calibrated" in text
    shown = json.loads(overproof("show", run / "int8", "--json").stdout)
    assert shown["kind"] == "quantized-from" and set(shown["inputs"]) == {"model"} and shown["metrics"]["quantised"] > 0


def test_report_is_one_page(run):
    overproof("audit", "report", run)
    page = (run / "report.html").read_text()
    assert page.startswith("<!doctype html>") or page.lower().startswith("<!doctype html>")
    assert "<svg" in page and "Apache-2.0" in page and "<script" not in page and "http-equiv=\"refresh\"" not in page


@pytest.mark.parametrize("stage", ["teacher", "student-init", "student", "calibrated", "int8"])
def test_every_checkpoint_speaks(run, stage):
    words = ["generate", run / stage, "--prompt", "A pipe", "--max-tokens", "12", "--json"]
    first, second = (json.loads(overproof(*words).stdout) for _ in range(2))
    for answer in (first, second):
        assert answer.pop("tokens_per_second") > 0
    assert first == second and first["text"]


def logits(model, ids, tmp_path):
    import numpy
    from safetensors.numpy import load_file, save_file
    save_file({"ids": numpy.asarray(ids, dtype=numpy.int64)}, tmp_path / "ids.safetensors")
    overproof("logits", model, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    return load_file(tmp_path / "logits.safetensors")["logits"]


@pytest.mark.parametrize("stage, bound", [("teacher", 1e-3), ("student-init", 1e-3), ("student", 1e-3), ("calibrated", 1e-3), ("int8", 1e-3)])
def test_transformers_loads_it_and_agrees(run, tmp_path, stage, bound):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    text = (SOURCE / "examples/texts/river.txt").read_text()[:256]
    tokenizer = AutoTokenizer.from_pretrained(run / stage)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    model = AutoModelForCausalLM.from_pretrained(run / stage, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    ours = logits(run / stage, ids, tmp_path)
    assert abs(theirs - ours).max() <= bound


def test_wrong_tokenizer_is_refused(run, base):
    overproof("tiny-teacher", "--seed", 2, "--layers", 1, "--out", base / "other-teacher")
    tokenizer = base / "other-teacher" / "tokenizer.json"
    changed = base / "changed-teacher"
    shutil.copytree(base / "other-teacher", changed)
    for file in ["claims.jsonl", "model.sig"]:
        (changed / file).unlink()
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    names = sorted(vocabulary, key=vocabulary.get)
    vocabulary[names[0]], vocabulary[names[1]] = vocabulary[names[1]], vocabulary[names[0]]
    (changed / "tokenizer.json").write_text(json.dumps(content))
    answer = overproof("teach", "--teacher", changed, "--corpus", run / "corpus", "--out", base / "t", code=7)
    assert "tokenizer" in answer.stderr and not (base / "t").exists()


def test_broken_document_is_named(run, base):
    source = base / "texts"
    shutil.copytree(SOURCE / "examples" / "texts", source)
    (source / "bread.txt").write_bytes(b"flour \xff\xfe water" * 20)
    words = ["corpus", "--source", source, "--tokenizer", run / "teacher", "--window-length", 64, "--out", base / "c"]
    answer = overproof(*words, code=3)
    assert "bread.txt" in answer.stderr and not (base / "c").exists()
    overproof(*words, "--allow-broken", 1)
    assert "bread.txt" not in (base / "c" / "documents.jsonl").read_text()


def test_missing_teacher_and_read_only_output(run, base):
    answer = overproof("teach", "--teacher", base / "nobody", "--corpus", run / "corpus", "--out", base / "t", code=5)
    assert "nobody" in answer.stderr
    answer = overproof("quantize", "--model", run / "student", "--out", "/proc/overproof", code=5)
    assert "/proc" in answer.stderr


def test_full_disk_leaves_earlier_artifacts_intact(run, base):
    """A tmpfs of 600 KB in a mount namespace of its own takes the place of a full disk."""
    small = base / "small"
    small.mkdir()
    # Where / is no mount point (a chroot) its propagation cannot be set: then the mount is taken away again by hand.
    script = f'mount --make-rprivate / 2>/dev/null; mount -t tmpfs -o size=600k tmpfs {small} && echo kept > {small}/earlier && ' \
             f'{OVERPROOF} prune-neurons --teacher {run}/teacher --statistics {run}/statistics --out {small}/pruned; code=$?; ' \
             f'ls -A {small}; umount {small}; exit $code'
    unshare = ["unshare", "-m", "--propagation", "unchanged"] if os.geteuid() == 0 else ["unshare", "-rm"]
    answer = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True)
    assert answer.returncode == 5, answer.stdout + answer.stderr
    assert "disk is full" in answer.stderr or "No space left" in answer.stderr
    assert answer.stdout.split() == ["earlier"] or set(answer.stdout.split()) <= {"earlier", ".pruned.scratch-"} | set(
        name for name in answer.stdout.split() if name.startswith(".pruned.scratch-"))
