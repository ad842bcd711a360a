"""arena: battles of models judged by verifiers, by likelihood against transformers, and by a real server on loopback that prefers places, says nothing or is hostile."""
import json
import os

import numpy as np
import pytest

from program import SOURCE, overproof
from teacher_server import TeacherServer

MODELS = ("quince", "walnut", "thyme")


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arena") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    for seed, name in enumerate(MODELS, 1):
        overproof("tiny-teacher", "--seed", seed, "--out", folder / name)
    tasks = [{"name": f"letters/{i}", "prompt": f"Number {i}:", "verifier": {"type": "regex", "pattern": "[a-m]{2}|[0-4]"}} for i in range(12)]
    (folder.parent / "tasks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    (folder.parent / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(4)))
    return folder


def arena(run, out, *words, models=MODELS, tasks="tasks.jsonl", code=0, env=None):
    named = [w for m in models for w in (f"--{m}", run / m)]
    return overproof("arena", "--tasks", run.parent / tasks, *named, "--max-tokens", 12, "--draws", 200, *words, "--out", run / out, code=code, env=env)


def read(run, out):
    return json.loads((run / out / "arena.json").read_text()), lines(run / out / "battles.jsonl"), lines(run / out / "answers.jsonl")


def check_sums(result, battles):
    """The counts of arena.json are those of battles.jsonl."""
    for model in result["models"]:
        mine = [(b, b["a"] == model["name"]) for b in battles if model["name"] in (b["a"], b["b"])]
        assert model["wins"] == sum(b["winner"] == ("a" if a else "b") for b, a in mine)
        assert model["losses"] == sum(b["winner"] == ("b" if a else "a") for b, a in mine)
        assert model["ties"] == sum(b["winner"] == "tie" for b, _ in mine)
        assert model["low"] <= model["rating"] + 1e-6 and model["rating"] <= model["high"] + 1e-6
    assert [m["rating"] for m in result["models"]] == sorted((m["rating"] for m in result["models"]), reverse=True)
    assert np.mean([m["rating"] for m in result["models"]]) == pytest.approx(1000)
    assert result["not_judged"] == sum(b["winner"] is None for b in battles)


def fit(battles, names):
    """Ratings by gradient descent on the likelihood, another way than Newton's."""
    strengths = np.zeros(len(names))
    index = {n: i for i, n in enumerate(names)}
    for _ in range(20000):
        gradient = np.zeros(len(names))
        for b in battles:
            a, c, score = index[b["a"]], index[b["b"]], {"a": 1.0, "b": 0.0, "tie": 0.5}[b["winner"]]
            miss = score - 1 / (1 + np.exp(strengths[c] - strengths[a]))
            gradient[a] += miss
            gradient[c] -= miss
        strengths += 0.05 * gradient
        if np.abs(gradient).max() < 1e-9:
            break
    return {n: 1000 + 400 / np.log(10) * (s - strengths.mean()) for n, s in zip(names, strengths)}


def test_verifiers_judge(run):
    import re
    arena(run, "verified", "--temperature", 1, "--seed", 3)
    result, battles, answers = read(run, "verified")
    assert result["judge"] == "verifier" and result["prompts"] == 12 and len(battles) == 36 and len(answers) == 36
    right = {(a["model"], a["prompt"]): bool(a["answer"]) and bool(re.search("[a-m]{2}|[0-4]", a["answer"])) for a in answers}
    for b in battles:
        mine, other = right[b["a"], b["prompt"]], right[b["b"], b["prompt"]]
        assert b["winner"] == ("tie" if mine == other else "a" if mine else "b"), b
    check_sums(result, battles)
    if not result["with_prior"]:
        expected = fit(battles, sorted(MODELS))
        assert all(m["rating"] == pytest.approx(expected[m["name"]], abs=0.01) for m in result["models"])
    overproof("audit", "verify", run / "verified")
    overproof("audit", "recompute", run / "verified", "--file", f"tasks={run.parent / 'tasks.jsonl'}")
    page = run.parent / "page.md"
    overproof("audit", "report", run, "--format", "markdown", "--out", page, code=None)
    assert "Ratings in" in page.read_text()


def test_likelihood_is_that_of_transformers(run):
    import torch
    import transformers
    arena(run, "likely", "--judge", "likelihood", "--judge-model", run / "quince", "--temperature", 1, tasks="prompts.jsonl")
    result, battles, answers = read(run, "likely")
    text = {(a["model"], a["prompt"]): a["answer"] for a in answers}
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "quince", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "quince")
    prompts = {f"task-{i + 1}": json.loads(line)["prompt"] for i, line in enumerate((run.parent / "prompts.jsonl").read_text().splitlines())}

    def mean(prompt, answer):
        before, after = tokenizer.encode(prompt, add_special_tokens=False), tokenizer.encode(prompt + answer, add_special_tokens=False)
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([after])).logits[0].double(), -1)
        own = range(len(before), len(after))
        return sum(float(logs[i - 1, after[i]]) for i in own) / len(own)

    for b in battles:
        values = [mean(prompts[b["prompt"]], text[b[side], b["prompt"]]) if text[b[side], b["prompt"]] else None for side in "ab"]
        for ours, theirs in zip(b["log_probabilities"], values):
            assert (ours is None) == (theirs is None) and (ours is None or ours == pytest.approx(theirs, abs=2e-4))
        if None not in values and abs(values[0] - values[1]) > 1e-3:
            assert b["winner"] == ("a" if values[0] > values[1] else "b")
    check_sums(result, battles)
    arena(run, "all-ties", "--judge", "likelihood", "--judge-model", run / "quince", "--tie-margin", 100, tasks="prompts.jsonl")
    assert all(b["winner"] == "tie" for b in read(run, "all-ties")[1])
    assert all(m["rating"] == pytest.approx(1000) and m["low"] == m["high"] == pytest.approx(1000) for m in read(run, "all-ties")[0]["models"])


class Judge(TeacherServer):
    """Answers chat completions by `judge(first, second)`: the text that it writes."""

    def __init__(self, judge, **more):
        self.judge = judge
        super().__init__(257, "chat", **more)

    def answer(self, path, body):
        if path != "/v1/chat/completions":
            return None
        content = body["messages"][-1]["content"]
        if "[Answer A]" not in content:
            return {"model": self.model, "choices": [{"message": {"role": "assistant", "content": "Yes."}}]}
        first = content.partition("[Answer A]\n")[2].partition("\n[End of answer A]")[0]
        second = content.partition("[Answer B]\n")[2].partition("\n[End of answer B]")[0]
        with self.lock:
            self.prompts.append(json.dumps(body))
        return {"model": self.model, "choices": [{"message": {"role": "assistant", "content": self.judge(first, second)}}],
                "usage": {"prompt_tokens": 50, "completion_tokens": 3}}


def shorter(first, second):
    return "Because. " + ("[[C]]" if len(first) == len(second) else "[[A]]" if len(first) < len(second) else "[[B]]")


def connect(run, server, out, *words):
    return overproof("connect", "--url", server.url, "--model", server.model, "--dialect", "text", "--tokenizer", run / "quince", "--license", "LicenseRef-test",
                     *words, "--out", run / out, "--force")


def test_a_server_judges_both_orders_blind_and_is_paid_once(run):
    def quotes_the_key(first, second):
        return "secret-key-0123456789 " + shorter(first, second)

    with Judge(quotes_the_key, key="secret-key-0123456789", delay=0.01) as server:
        env = {"OVERPROOF_TEACHER_KEY": "secret-key-0123456789"}
        overproof("connect", "--url", server.url, "--model", server.model, "--dialect", "text", "--tokenizer", run / "quince", "--license", "LicenseRef-test",
                  "--out", run / "judge", env=env)
        words = ("--judge", "openai-url", "--judge-model", run / "judge", "--temperature", 1)
        arena(run, "served", *words, tasks="prompts.jsonl", env=env)
        result, battles, answers = read(run, "served")
        text = {(a["model"], a["prompt"]): a["answer"] for a in answers}
        assert len(battles) == 12
        for b in battles:
            mine, other = (text[b[side], b["prompt"]] for side in "ab")
            expected = "tie" if len(mine) == len(other) else "a" if len(mine) < len(other) else "b"
            assert b["winner"] == expected
            assert [j["first"] for j in b["judgements"]] == ["a", "b"] and all(j["verdict"] == expected for j in b["judgements"])
        check_sums(result, battles)
        asked = len(server.prompts)
        assert asked == len(set(server.prompts)) <= 24
        assert not any(name in prompt for prompt in server.prompts for name in (*MODELS, "task-1", str(run)))
        # Again: nothing is sent, and the artifact is the same.
        before = {f: (run / "served" / f).read_bytes() for f in ("arena.json", "battles.jsonl", "answers.jsonl")}
        again = arena(run, "served", *words, "--force", tasks="prompts.jsonl", env=env)
        assert len(server.prompts) == asked and f"{24} of them answered before" in again.stdout
        assert all((run / "served" / f).read_bytes() == data for f, data in before.items())
        overproof("audit", "verify", run / "served")
        refused = overproof("audit", "recompute", run / "served", "--file", f"tasks={run.parent / 'prompts.jsonl'}", code=4)
        assert "is what a server answered" in refused.stdout and len(server.prompts) == asked
        assert not any(b"secret-key" in f.read_bytes() for f in run.rglob("*") if f.is_file())
        show = overproof("show", run / "served", "--json").stdout
        assert json.loads(show)["metrics"]["evidence"] == "recorded"


def test_a_judge_that_prefers_a_place_ties_and_one_without_a_verdict_counts_for_nothing(run):
    with Judge(lambda first, second: "[[A]]", model="first") as server:
        connect(run, server, "judge-first")
        arena(run, "first", "--judge", "openai-url", "--judge-model", run / "judge-first", "--temperature", 1, tasks="prompts.jsonl")
        result, battles, _ = read(run, "first")
        same = {(a["model"], a["prompt"]): a["answer"] for a in lines(run / "first/answers.jsonl")}
        assert all(b["winner"] == ("tie" if same[b["a"], b["prompt"]] != same[b["b"], b["prompt"]] else b["winner"]) for b in battles)
        assert all(m["rating"] == pytest.approx(1000) for m in result["models"])
    with Judge(lambda first, second: "I cannot say \ud83d\ude00 [[", model="silent") as server:
        connect(run, server, "judge-silent")
        refused = arena(run, "silent", "--judge", "openai-url", "--judge-model", run / "judge-silent", "--temperature", 1, tasks="prompts.jsonl", code=6)
        assert "gave no verdict" in refused.stderr and not (run / "silent").exists()


def test_failures_of_a_server_are_repeated_within_a_budget(run):
    def fault(server, number, body):
        return (503, {"Retry-After": "0"}, b"busy", None) if number % 3 == 2 else None

    with Judge(shorter, model="busy", fault=fault) as server:
        connect(run, server, "judge-busy")
        words = ("--judge", "openai-url", "--judge-model", run / "judge-busy", "--temperature", 1, "--judge-tokens", 16)
        poor = arena(run, "poor", *words, "--token-budget", 700, "--concurrency", 1, tasks="prompts.jsonl", code=6)
        assert "token budget" in poor.stderr
        paid = len(server.answered)
        arena(run, "poor", *words, tasks="prompts.jsonl")  # resumes: what was answered is not asked again
        judged = [body for _, body in server.answered]
        assert len(set(judged)) == len(judged) > paid > 1 and server.requests > len(judged)
    with Judge(shorter, model="broken", fault=lambda s, n, b: (lambda answer: {"model": "broken", "choices": []})) as server:
        done = overproof("connect", "--url", server.url, "--model", "broken", "--dialect", "text", "--tokenizer", run / "quince", "--license", "LicenseRef-test",
                         "--out", run / "judge-broken", code=None)
        assert done.returncode == 7 and "no choices" in done.stderr


def test_what_does_not_fit_is_refused(run):
    assert "2 to 64" in arena(run, "x", models=("quince",), code=2).stderr
    assert "needs --judge-model" in arena(run, "x", "--judge", "likelihood", code=2).stderr
    assert "needs --judge-model" in arena(run, "x", "--judge", "openai-url", code=2).stderr
    assert "takes no --judge-model" in arena(run, "x", "--judge-model", run / "quince", code=2).stderr
    assert "no artifact of" in arena(run, "x", "--judge", "openai-url", "--judge-model", run / "quince", code=7).stderr
    assert "'answer' is missing" in arena(run, "x", tasks="prompts.jsonl", code=3).stderr  # no verifier can judge these
    assert not (run / "x").exists()
