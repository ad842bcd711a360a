"""A teacher behind a URL that gives text only: its answers become samples, a corpus and a student, and none is paid for twice."""
import json
import os

import pytest

from program import SOURCE, count_writes, overproof, stopped
from teacher_server import TeacherServer

QUESTIONS = ["What is a pipe?", "What is a fork? \u00e9", "What is a pipe?", "Name a signal."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text-servers")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("tiny-teacher", "--seed", 1, "--out", folder / "teacher")
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--held-out", 0.25, "--out",
              folder / "corpus")
    return folder


@pytest.fixture
def work(base, tmp_path):
    for name in ("teacher", "corpus"):
        (tmp_path / name).symlink_to(base / name)
    lines = [{"prompt": q, "name": f"q{i}"} for i, q in enumerate(QUESTIONS[:3])]
    lines.append({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[3]}]})
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return tmp_path


def connect(work, server, *options):
    return overproof("connect", "--url", server.url, "--model", server.model, "--tokenizer", work / "teacher", "--license", "LicenseRef-OpenAI-terms", "--dialect",
                     "text", "--out", work / "server", "--force", *options)


def ask(work, *options, out="samples", source=True, code=0):
    prompts = ["--prompts", work / "prompts.jsonl"] if source else []
    at_once = [] if "--concurrency" in options else ["--concurrency", 2]
    return overproof("capture-samples", "--teacher", work / "server", *prompts, "--max-tokens", 50, *at_once, "--out", work / out, *options, code=code)


def documents(work, out="samples"):
    return [json.loads(line) for line in (work / out / "documents.jsonl").read_text().splitlines()]


def test_answers_become_documents_with_their_lineage(work):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        before = server.requests
        ask(work, "--per-prompt", 2, "--seed", 7, "--system", "Answer as a manual.", "--temperature", 0.5)
        assert server.requests - before == 6  # two of the four prompts are the same
        bodies = [json.loads(body) for _, body in server.answered[before:]]
    assert {b["seed"] for b in bodies} == {7, 8} and all(b["max_tokens"] == 50 and b["temperature"] == 0.5 and "top_p" not in b for b in bodies)
    found = documents(work)
    assert len(found) == 6 and len({d["name"] for d in found}) == 6
    for d in found:
        *question, answer = d["messages"]
        assert answer["role"] == "assistant" and answer["content"].endswith(f" to: {question[-1]['content']}")
        assert question[0] == {"role": "system", "content": "Be brief." if question[-1]["content"] == QUESTIONS[3] else "Answer as a manual."}
        assert [p["slot"] for p in d["parents"]] == ["teacher", "prompt"] and d["source"].startswith("server sha256:")
    metrics = json.dumps(json.loads(overproof("show", work / "samples", "--json").stdout))
    assert '"recorded"' in metrics and server.url in metrics
    # The corpus of these documents takes the terms of the server with it, to every model that is trained on them.
    (work / "template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}")
    overproof("corpus", "--samples", work / "samples", "--tokenizer", work / "teacher", "--chat-template", work / "template.jinja", "--window-length", 32,
              "--held-out", 0, "--min-bytes", 1, "--out", work / "chats")
    assert overproof("audit", "verify", work, code=None).returncode == 0
    overproof("distill", "--student", work / "teacher", "--teacher", work / "teacher", "--corpus", work / "chats", "--loss", "cross-entropy=1", "--steps", 2,
              "--batch-size", 2, "--out", work / "student")
    held = overproof("export", work / "student", work / "gguf", code=None)
    assert held.returncode != 0 and "OpenAI" in held.stdout + held.stderr
    again = overproof("audit", "recompute", work / "samples", code=4)
    assert "what a server answered" in again.stdout


def test_a_corpus_gives_the_prompts(work):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        ask(work, "--corpus", work / "corpus", "--count", 3, "--prompt-bytes", 40, "--instruction", "Go on: {text}", source=False)
        refused = ask(work, "--corpus", work / "corpus", "--instruction", "no place", out="x", source=False, code=2)
        assert "{text}" in refused.stderr
        assert "one of --prompts and --corpus" in ask(work, out="x", source=False, code=2).stderr
    texts = {}
    for line in (work / "corpus/documents.jsonl").read_text().splitlines():
        d = json.loads(line)
        if d["split"] == "train":
            texts[d["name"]] = "sha256:" + d["digest"]
    stored = {json.loads(line)["name"]: json.loads(line)["text"] for f in (work / "corpus/texts").glob("*.jsonl") for line in f.read_text().splitlines()}
    found = documents(work)
    assert len(found) == 3
    for d in found:
        prompt = d["parents"][1]
        assert texts[prompt["name"]] == prompt["digest"]
        beginning = d["messages"][0]["content"].removeprefix("Go on: ")
        assert stored[prompt["name"]].startswith(beginning) and 36 < len(beginning.encode()) <= 40


def text_of(s, b, **change):
    answer = s.chat(b)
    answer["choices"][0] |= change
    return json.dumps(answer).encode()


PASSING = {
    "drops": lambda s, n, b: (200, {}, text_of(s, b), 60),
    "429": lambda s, n, b: (429, {"Retry-After": "1"}, b"{}", None),
    "500": lambda s, n, b: (500, {}, b"oops", None),
    "truncated": lambda s, n, b: (200, {}, text_of(s, b)[:-30], None),
    "two choices": lambda s, n, b: (200, {}, json.dumps({"model": "tiny", "choices": 2 * s.chat(b)["choices"]}).encode(), None),
    "a number for a text": lambda s, n, b: (200, {}, text_of(s, b, message={"role": "assistant", "content": 5}), None),
    "another role": lambda s, n, b: (200, {}, text_of(s, b, message={"role": "user", "content": "x"}), None),
}


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass(work, name):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        first = server.requests
        server.fault = lambda s, n, b: PASSING[name](s, n, b) if n == first + 2 else None
        ask(work, "--concurrency", 1)
        assert server.requests == first + 4  # three prompts that differ, one of them twice
    assert len(documents(work)) == 3


def test_faults_that_stay(work):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        server.fault = lambda s, n, b: (lambda a: a | {"model": "another"})
        assert "answers as model 'another'" in ask(work, code=7).stderr
        server.fault = lambda s, n, b: (401, {}, b"", None)
        assert "--key-variable" in ask(work, code=5).stderr
        server.fault = None
        (work / "prompts.jsonl").write_text('{"prompt": "x"}\n{"messages": [{"role": "assistant", "content": "y"}]}\n')
        assert "can be answered" in ask(work, code=3).stderr
        (work / "prompts.jsonl").write_text('{"prompt": "x", "messages": []}\n')
        assert "'prompt' and 'messages'" in ask(work, code=3).stderr
    assert not (work / "samples").exists()
    overproof("connect", "--dialect", "offline", "--tokenizer", work / "teacher", "--out", work / "server", "--force")
    assert "without a server" in ask(work, code=7).stderr


def test_cut_and_empty_answers_are_left_out(work):
    def fault(server, number, body):
        asked = body["messages"][-1]["content"]
        if "pipe" in asked:
            return 200, {}, text_of(server, body, finish_reason="length"), None
        if "fork" in asked:
            return 200, {}, text_of(server, body, message={"role": "assistant", "content": None}), None
        return None
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        server.fault = fault
        ask(work)
        assert [d["messages"][-2]["content"] for d in documents(work)] == [QUESTIONS[3]]
        before = server.requests
        ask(work, "--keep-cut", out="kept")
        assert server.requests == before and len(documents(work, "kept")) == 2  # all answers were there


def test_budget_and_dry_run(work):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        before = server.requests
        estimate = json.loads(ask(work, "--dry-run", "--json").stdout)["estimate"]
        assert estimate["requests"] == 3 and estimate["paid_tokens"] > 3 * 50 and server.requests == before
        assert "token budget" in ask(work, "--token-budget", estimate["paid_tokens"] // 2, "--concurrency", 1, code=6).stderr
        asked = server.requests - before
        assert 1 <= asked < 3
        ask(work)
        assert server.requests - before == 3
    assert len(documents(work)) == 3


def test_no_answer_is_paid_for_twice(work):
    with TeacherServer(257, "chat") as server:
        connect(work, server)
        words = ["capture-samples", "--teacher", work / "server", "--prompts", work / "prompts.jsonl", "--concurrency", 1]
        writes = count_writes(*words, "--out", work / "whole", file=work / "count")
        ledger = next((work / "checkpoints").glob("*.ledger"))
        for at in range(1, writes + 1):
            ledger.unlink(missing_ok=True)
            before = len(server.answered)
            stopped(*words, "--out", work / f"at-{at}", at_write=at)
            overproof(*words, "--out", work / f"at-{at}")
            asked = [body for _, body in server.answered[before:]]
            assert 3 <= len(asked) <= 4 and len(set(asked)) == 3, at
            assert (work / f"at-{at}/documents.jsonl").read_bytes() == (work / "whole/documents.jsonl").read_bytes()
