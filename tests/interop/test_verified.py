"""Verified tasks from end to end: a model's completions, their verdicts against Python's own, the documents that are kept and their lineage, and what is
refused: programs without namespaces, a command that an auditor did not give."""
import json
import os
import re
import shutil
import subprocess

import pytest

from program import OVERPROOF, inherited, overproof

PATTERN = r"[a-m]{2}"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_tasks(file, tasks):
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    tasks = [{"name": f"letters/{i}", "prompt": f"Letters, number {i}:", "verifier": {"type": "regex", "pattern": PATTERN}} for i in range(6)]
    tasks += [{"name": "judged", "prompt": "Once upon a time", "verifier": "command"}, {"name": "sum", "prompt": "1 + 1 =", "answer": "2"}]
    write_tasks(folder / "tasks.jsonl", tasks)
    judge = folder / "judge.py"
    judge.write_text("#!/usr/bin/env python3\nimport json, sys\nfor line in sys.stdin:\n    r = json.loads(line)\n"
                     "    print(json.dumps({'verdict': 'correct' if len(r['completion']) % 2 else 'wrong'}), flush=True)\n")
    judge.chmod(0o755)
    overproof("tiny-teacher", "--seed", 1, "--out", folder / "run/teacher")
    overproof("sample", "--teacher", folder / "run/teacher", "--tasks", folder / "tasks.jsonl", "--per-task", 5, "--max-tokens", 12, "--seed", 3,
              "--out", folder / "run/samples")
    overproof("verify-samples", "--samples", folder / "run/samples", "--command", judge, "--out", folder / "run/verified")
    return folder


def test_verdicts_are_those_of_python(run):
    samples = {r["name"]: r for r in lines(run / "run/samples/documents.jsonl")}
    verdicts = lines(run / "run/verified/verdicts.jsonl")
    assert len(verdicts) == 8 * 5
    kept = {r["name"]: r for r in lines(run / "run/verified/documents.jsonl")}
    correct = 0
    for v in verdicts:
        if v["name"] is None:
            assert v["verdict"] == "unknown"
            continue
        text = samples[v["name"]]["completion"]
        if v["task"].startswith("letters"):
            expected = "correct" if re.search(PATTERN, text) else "wrong"
        elif v["task"] == "judged":
            expected = "correct" if len(text) % 2 else "wrong"
        else:
            expected = v["verdict"]
            assert v["verdict"] != "correct" or "2" in text
        assert v["verdict"] == expected, (v, text)
        correct += v["verdict"] == "correct"
        assert (v["name"] in kept) == v["kept"] == (v["verdict"] == "correct")
    assert 0 < correct < 40
    statement = json.loads(overproof("show", run / "run/verified", "--json").stdout)
    rate = statement["metrics"]["pass_rate"] if "metrics" in statement else json.loads((run / "run/verified/sampling.json").read_text())["verified"]
    assert rate["correct"] == correct and rate["completions"] == 40 and rate["low"] < rate["rate"] < rate["high"]
    for name, record in kept.items():
        assert [p["slot"] for p in record["parents"]] == ["teacher", "task", "samples"]


def test_what_was_kept_is_a_corpus_with_its_lineage(run):
    out = run / "run/corpus"
    overproof("corpus", "--samples", run / "run/verified", "--tokenizer", run / "run/teacher", "--min-bytes", 1, "--held-out", 0, "--out", out)
    kept = {r["prompt"] + r["completion"] for r in lines(run / "run/verified/documents.jsonl")}
    texts = {r["text"] for file in (out / "texts").glob("*") for r in lines(file)}
    assert texts == kept
    assert all(0 < r["trained"] < r["tokens"] for r in lines(out / "documents.jsonl"))
    overproof("audit", "verify", run / "run")
    # The auditor gives what comes from outside: the tasks, which the samples hold byte for byte, and the program that judged.
    without = overproof("audit", "recompute", run / "run", code=4)
    assert "command" in without.stdout
    again = overproof("audit", "recompute", run / "run", "--file", f"tasks={run / 'run/samples/tasks.jsonl'}", "--file", f"command={run / 'judge.py'}")
    assert re.search(r"equal +verified +verify-samples", again.stdout) and re.search(r"equal +samples +sample", again.stdout)


def test_weights_of_tasks_reach_the_corpus(run, tmp_path):
    """What is kept of a task counts as one document, equal completions by their number."""
    out = run / "weighted"
    for stage in ("teacher", "samples"):
        shutil.copytree(run / "run" / stage, out / stage)
    overproof("verify-samples", "--samples", out / "samples", "--command", run / "judge.py", "--weights", "tasks", "--out", out / "verified")
    correct = {}
    for v in lines(out / "verified/verdicts.jsonl"):
        if v["verdict"] == "correct":
            correct.setdefault(v["task"], []).append(v["name"])
    text_of = {r["name"]: r["prompt"] + r["completion"] for r in lines(out / "samples/documents.jsonl")}
    expected = {}
    for names in correct.values():
        for name in names:
            expected[text_of[name]] = expected.get(text_of[name], 0) + 1 / len(names)
    assert any(weight < 1 for weight in expected.values())
    overproof("corpus", "--samples", out / "verified", "--tokenizer", out / "teacher", "--min-bytes", 1, "--held-out", 0, "--out", out / "corpus")
    texts = {r["name"]: r["text"] for file in (out / "corpus/texts").glob("*") for r in lines(file)}
    weights = {texts[r["name"]]: r.get("weight", 1) for r in lines(out / "corpus/documents.jsonl")}
    assert weights == pytest.approx(expected)
    overproof("audit", "verify", out)


def test_another_command_is_no_proof(run, tmp_path):
    other = tmp_path / "judge.py"
    other.write_text((run / "judge.py").read_text().replace("% 2", "% 3"))
    other.chmod(0o755)
    out = overproof("audit", "recompute", run / "run", "--file", f"tasks={run / 'tasks.jsonl'}", "--file", f"command={other}", code=4).stdout
    assert "was made from sha256:" in out


def test_options_that_do_not_fit_are_refused(run, tmp_path):
    said = overproof("verify-samples", "--samples", run / "run/samples", "--out", tmp_path / "a", code=7).stderr
    assert "'judged' has the verifier 'command'" in said and "--command" in said
    said = overproof("sample", "--teacher", run / "run/teacher", "--per-task", 2, "--out", tmp_path / "b", code=2).stderr
    assert "need --tasks" in said
    tasks = write_tasks(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "x"}], "answer": "1"}])
    said = overproof("sample", "--teacher", run / "run/teacher", "--tasks", tasks, "--plain-prompts", "--out", tmp_path / "c", code=7).stderr
    assert "plain-prompts" in said
    overproof("sample", "--teacher", run / "run/teacher", "--count", 2, "--max-tokens", 4, "--out", tmp_path / "d")
    said = overproof("verify-samples", "--samples", tmp_path / "d", "--out", tmp_path / "e", code=3).stderr
    assert "sample --tasks FILE" in said


def has_namespaces():
    return subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def programs(run):
    tasks = write_tasks(run / "programs.jsonl", [{"prompt": "print(", "verifier": {"type": "program", "cases": [{"stdout": "1"}]}}])
    out = run / "programs/samples"
    overproof("sample", "--teacher", run / "run/teacher", "--tasks", tasks, "--max-tokens", 6, "--out", out)
    return out


@pytest.mark.skipif(not has_namespaces(), reason="this kernel refuses user namespaces, so none can be made in which they are refused")
def test_without_namespaces_programs_are_refused(programs, tmp_path):
    """In a namespace that allows no further one, as in many containers, nothing is run."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", script, "sh", OVERPROOF, "verify-samples", "--samples", programs, "--out", tmp_path / "out"],
                          capture_output=True, text=True, env=inherited())
    assert done.returncode == 5, done.stderr
    assert "programs are not run without one" in done.stderr and "max_user_namespaces" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_bubblewrap_programs_are_refused(programs, tmp_path):
    done = overproof("verify-samples", "--samples", programs, "--out", tmp_path / "out", code=5, env={"PATH": str(tmp_path)})
    assert "install the package bubblewrap" in done.stderr


@pytest.mark.skipif(not shutil.which("bwrap") or not has_namespaces(), reason="no bubblewrap, or the kernel refuses user namespaces")
def test_programs_are_judged(programs, tmp_path):
    overproof("verify-samples", "--samples", programs, "--out", tmp_path / "out")
    (verdict,) = lines(tmp_path / "out/verdicts.jsonl")
    assert verdict["verdict"] == "wrong" and "case 1 of 1" in verdict["reason"]
