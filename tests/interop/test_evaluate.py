"""evaluate's multiple-choice tasks against lm-evaluation-harness with transformers, on the default teacher: log-likelihoods, accuracies, standard errors, and
contexts that are cut; then what is made from held-out text, signed and made again, from end to end on a tiny model."""
import json
import os
import pathlib
import struct
import sys

import pytest

from program import SOURCE, overproof

TEACHER = pathlib.Path(os.environ.get("OVERPROOF_TEACHER", pathlib.Path(sys.prefix).parent / "teacher/SmolLM2-135M-Instruct.Q4_1.gguf"))
GOLDEN = SOURCE / "tests/golden/choice_scores"
QUESTIONS = GOLDEN / "questions.jsonl"
needs_teacher = pytest.mark.skipif(not TEACHER.exists(), reason="the default teacher is not there (tools/fetch_teacher.sh)")


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def make_corpus(folder, tokenizer, window):
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", tokenizer, "--window-length", window, "--held-out", 0.5, "--out", folder)
    return folder


def evaluate(folder, teacher, *words, window=64):
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    corpus = make_corpus(folder / "corpus", teacher, window)
    overproof("evaluate", "--teacher", teacher, "--corpus", corpus, "--tokens", window, "--prompts", 0, "--compute", "f32", *words, "--out", folder / "evaluation")
    return json.loads((folder / "evaluation/evaluation.json").read_text()), lines(folder / "evaluation/scores.jsonl")


def compare(scores, golden):
    assert {s["name"] for s in scores} == set(golden)
    worst = 0.0
    for s in scores:
        g = golden[s["name"]]
        worst = max([worst] + [abs(a - b) for a, b in zip(s["log_likelihoods"], g["log_likelihoods"], strict=True)])
        assert s["greedy"] == g["greedy"], s["name"]
        assert (s["choice"] == s["answer"]) == (g["acc"] == 1), s["name"]
        assert (s["choice_by_bytes"] == s["answer"]) == (g["acc_bytes"] == 1), s["name"]
    print(f"{len(scores)} questions, largest difference of a log-likelihood {worst:.2e}")
    assert worst < 2e-3
    return worst


@needs_teacher
def test_choices_are_those_of_lm_evaluation_harness(tmp_path):
    golden = json.loads((GOLDEN / "scores.json").read_text())
    evaluation, scores = evaluate(tmp_path, TEACHER, "--questions", QUESTIONS)
    compare(scores, golden["questions"])
    (task,) = evaluation["models"][0]["tasks"]
    # lm-evaluation-harness has one delimiter a task: its means and standard errors are of the questions with the usual one.
    own, theirs = [s for s in scores if "delimiter" not in QUESTION[s["name"]]], golden["by_delimiter"][" "]
    for ours, name in (("choice", "acc"), ("choice_by_bytes", "acc_bytes")):
        right = [float(s[ours] == s["answer"]) for s in own]
        mean = sum(right) / len(right)
        assert mean == pytest.approx(theirs[name], abs=1e-12)
        spread = (sum((r - mean) ** 2 for r in right) / (len(right) - 1) / len(right)) ** 0.5
        assert spread == pytest.approx(theirs[f"{name}_stderr"], abs=1e-12)
    right = [float(s["choice"] == s["answer"]) for s in scores]
    mean = sum(right) / len(right)
    assert task["questions"] == len(scores) and task["acc"] == pytest.approx(mean, abs=1e-12)
    assert task["acc_stderr"] == pytest.approx((sum((r - mean) ** 2 for r in right) / (len(right) - 1) / len(right)) ** 0.5, abs=1e-12)


QUESTION = {q["name"]: q for q in lines(QUESTIONS)}


@needs_teacher
def test_long_contexts_are_cut_as_lm_evaluation_harness_cuts_them(tmp_path):
    data = bytearray(TEACHER.read_bytes())
    key = b"llama.context_length" + struct.pack("<I", 4)
    assert data.count(key) == 1
    struct.pack_into("<I", data, data.index(key) + len(key), 8)
    (tmp_path / "short.gguf").write_bytes(data)
    some = [q for q in lines(QUESTIONS) if q["context"]]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(q) + "\n" for q in some))
    golden = json.loads((GOLDEN / "scores.json").read_text())
    _, scores = evaluate(tmp_path, tmp_path / "short.gguf", "--questions", tmp_path / "some.jsonl", window=8)
    compare(scores, golden["at_most_8"])
    cut = sum(golden["at_most_8"][s["name"]]["log_likelihoods"] != golden["questions"][s["name"]]["log_likelihoods"] for s in scores)
    assert cut > 5  # the rule was used


def test_a_cloze_task_is_signed_made_again_and_reported(tmp_path):
    os.environ["OVERPROOF_KEY"] = str(tmp_path / "key.pem")
    run = tmp_path / "run"
    overproof("tiny-teacher", "--seed", 1, "--out", run / "teacher")
    overproof("tiny-teacher", "--seed", 2, "--out", run / "other")
    make_corpus(run / "corpus", run / "teacher", 64)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"context": "The sky is", "choices": ["blue", "green"], "answer": "blue", "task": "<b>sky</b>"}) + "\n")
    words = ["evaluate", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 64, "--prompts", 0, "--cloze", 5, "--cloze-words", 12,
             "--questions", questions, "--other", run / "other"]
    told = json.loads(overproof(*words, "--out", run / "evaluation", "--json").stdout)["metrics"]
    evaluation = json.loads((run / "evaluation/evaluation.json").read_text())
    assert evaluation["models"] == told["models"]
    for model in evaluation["models"]:
        sky, cloze = model["tasks"]
        assert sky == {"name": "<b>sky</b>", "questions": 1, "acc": sky["acc"], "acc_norm": sky["acc_norm"], "greedy": sky["greedy"]}
        assert cloze["name"] == "cloze" and cloze["questions"] == 5 and 0 <= cloze["acc"] <= 1 and cloze["acc_stderr"] <= 0.25
    held_out = {d["name"] for d in lines(run / "corpus/documents.jsonl") if d["split"] == "held_out"}
    scores = lines(run / "evaluation/scores.jsonl")
    assert len(scores) == 2 * 6
    assert all(s["name"].rpartition("#")[0] in held_out for s in scores if s["task"] == "cloze")
    assert all(len(s["log_likelihoods"]) == 4 for s in scores if s["task"] == "cloze")
    overproof("audit", "verify", run)
    assert "is missing" not in overproof("audit", "recompute", run / "evaluation", "--file", f"questions={questions}").stdout
    overproof("audit", "recompute", run / "evaluation", code=4)  # without the questions
    page = tmp_path / "page.html"
    overproof("audit", "report", run, "--out", page)
    text = page.read_text()
    assert "Multiple choice in" in text and "&lt;b&gt;sky&lt;/b&gt;" in text and "<b>sky" not in text and "calibration error" in text
    assert "questions of cloze" in overproof("show", run / "evaluation").stdout
    # What is refused.
    questions.write_text('{"context": "a", "choices": ["x"], "answer": 0}\n')
    refused = overproof(*words, "--out", run / "refused", code=3)
    assert "q.jsonl" in refused.stderr and "choices" in refused.stderr and not (run / "refused").exists()
