"""Soft targets that several processes taught: the bytes of one, with a lineage that every audit checks."""
import json
import os
import shutil

import pytest

from program import SOURCE, count_writes, overproof, stopped

SEED = "00c0ffee"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("run", SOURCE / "examples/kill-test.ini", "--out", folder / "run", "--only", "corpus")
    run = folder / "run"
    for number in (1, 2, 3):
        overproof(*shard(run, f"{number}/3"), "--out", run / f"part-{number}")
    overproof(*merge(run, 1, 2, 3), "--out", run / "soft-targets")
    return run


def options(run):
    return ["--teacher", run / "teacher", "--corpus", run / "corpus"]


def shard(run, which):
    return ["teach-shard", *options(run), "--tokens", 1280, "--batch-windows", 2, "--shard", which]


def merge(run, *numbers):
    return ["merge-targets", *options(run), "--parts", ",".join(f"p{n}={run / f'part-{n}'}" for n in numbers)]


def test_the_merged_artifact_is_that_of_one_process(run, tmp_path):
    overproof("teach", *options(run), "--tokens", 1280, "--batch-windows", 2, "--out", tmp_path / "whole")
    assert (tmp_path / "whole/targets.safetensors").read_bytes() == (run / "soft-targets/targets.safetensors").read_bytes()
    # Both have one identity: the digest of their files.
    roots = [json.loads(overproof("show", folder, "--json").stdout)["root"] for folder in (tmp_path / "whole", run / "soft-targets")]
    assert roots[0] == roots[1]


def test_a_killed_shard_resumes(run, tmp_path):
    words = [*shard(run, "2/3"), "--key", tmp_path / "key.pem"]
    writes = count_writes(*words, "--out", tmp_path / "counted", file=tmp_path / "count")
    stopped(*words, "--out", tmp_path / "killed", at_write=writes // 2)
    overproof(*words, "--out", tmp_path / "killed")
    assert (tmp_path / "killed/part.safetensors").read_bytes() == (run / "part-2/part.safetensors").read_bytes()


def test_audits_hold_on_parts_and_whole(run):
    assert overproof("audit", "verify", run, code=None).returncode == 0
    found = json.loads(overproof("audit", "recompute", run, "--stages", "teach-shard,merge-targets", "--json").stdout)
    assert found["holds"], found
    made = {a["artifact"] for a in found["artifacts"] if a["status"] == "equal"}
    assert {"part-1", "part-2", "part-3", "soft-targets"} <= made, found
    rows = json.loads(overproof("audit", "rows", run / "soft-targets", "--rows", 12, "--seed", SEED, "--json").stdout)
    assert rows["holds"] and rows["rows_equal"] == 12
    statement = overproof("show", run / "soft-targets").stdout
    assert "part-2" in statement
    student = ["distill", "--student", run / "teacher", *options(run)[2:], "--steps", 2, "--batch-size", 2]
    overproof(*student, "--targets", run / "soft-targets", "--out", run / "student")
    assert overproof("audit", "verify", run, code=None).returncode == 0
    refused = overproof(*student, "--targets", run / "part-1", "--out", run / "refused", code=7)
    assert "merge-targets" in refused.stderr


def test_parts_that_do_not_belong_together_are_refused(run, tmp_path):
    assert "no windows" in overproof(*merge(run, 1, 3), "--out", tmp_path / "gap", code=7).stderr
    overproof(*shard(run, "2/3"), "--temperature", 2, "--out", tmp_path / "other")
    words = ["merge-targets", *options(run), "--parts", f"a={run / 'part-1'},b={tmp_path / 'other'},c={run / 'part-3'}", "--out", tmp_path / "mixed"]
    assert "temperature" in overproof(*words, code=7).stderr
    # A part that was changed after it was signed.
    shutil.copytree(run / "part-2", tmp_path / "part-2")
    file = tmp_path / "part-2/part.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    words = ["merge-targets", *options(run), "--parts", f"a={run / 'part-1'},b={tmp_path / 'part-2'},c={run / 'part-3'}", "--out", tmp_path / "forged"]
    overproof(*words, code=4)
