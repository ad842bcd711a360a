"""Teachers behind a URL against a server that fails in every way: each capture ends in the right targets or in a clear error.

Expected rows come from the formula in teacher_server.py, not from this project's code.
"""
import json
import os
import signal
import time
from email.utils import formatdate

import numpy as np
import pytest

from program import KILLER, OVERPROOF, SOURCE, count_writes, inherited, overproof, stopped
from teacher_server import TeacherServer, log_probabilities
from test_teacher_servers import rows_of

WINDOW, WINDOWS, TOP = 64, 6, 12
VOCAB = 257
BYTES = [bytes([i]) for i in range(256)] + [b"<|endoftext|>"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("tiny-teacher", "--seed", 1, "--out", folder / "teacher")
    for name, options in [("corpus", []), ("bounded", ["--document-attention", "on"])]:
        overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", WINDOW, "--held-out", 0.25, *options,
                  "--out", folder / name)
    return folder


@pytest.fixture
def work(run, tmp_path):
    """A run folder of its own, so that no ledger of another test is there."""
    for name in ("corpus", "bounded", "teacher"):
        (tmp_path / name).symlink_to(run / name)
    return tmp_path


def connect(work, server, *options, code=0, env=None):
    return overproof("connect", "--url", server.url, "--model", server.model, "--tokenizer", work / "teacher", "--top-k", TOP, "--out", work / "server",
                     "--force", *options, code=code, env=env)


def capture(work, *options, out="targets", corpus="corpus", code=0, env=None):
    return overproof("capture", "--teacher", work / "server", "--corpus", work / corpus, "--tokens", WINDOW * WINDOWS, "--out", work / out, *options,
                     code=code, env=env)


def windows_of(work, corpus, count):
    """The ids of the first windows in the order of teaching, with their segments, by soft targets that the program makes itself of a local teacher: only
    the order is taken from them."""
    listed = work / f"windows-{corpus}.json"
    if not listed.exists():
        from safetensors import safe_open
        with safe_open(work / corpus / "tokens.safetensors", framework="numpy") as f:
            listed.write_text(json.dumps(f.get_tensor("train").astype(int).tolist()))
    return json.loads(listed.read_text())


def expected(ids, vocab=VOCAB, top=TOP):
    logs = log_probabilities(ids, vocab)
    order = np.argsort(-logs, kind="stable")[:top]
    return {int(i): float(np.exp(logs[i])) for i in order}


def check_rows(work, out="targets", corpus="corpus", top=TOP, least=1.0, skip_first=False, bounded=False, vocab_known=None):
    """Every row that is there is the formula's of some place in the corpus's stream, window by window."""
    stream = windows_of(work, corpus, WINDOWS)
    rows = rows_of(work / out)
    assert len(rows) == WINDOW * WINDOWS
    scored, placed = 0, 0
    for block in range(WINDOWS):
        block_rows = rows[block * WINDOW:(block + 1) * WINDOW]
        if not any(block_rows):
            continue
        # The window is found by its rows: exactly one window of the stream explains them.
        fits = []
        for w in range((len(stream) - 1) // WINDOW):
            ids = stream[w * WINDOW:(w + 1) * WINDOW + 1]
            if all(agrees(ids, r, block_rows[r], top, bounded, vocab_known) for r in range(WINDOW) if block_rows[r]):
                fits.append(w)
        assert len(fits) == 1, (block, fits)
        placed += 1
        scored += sum(bool(row) for row in block_rows)
    assert scored >= least * len(rows) and placed >= least * WINDOWS, (scored, placed)
    return scored


def agrees(ids, r, row, top, bounded, known):
    begin = 0
    if bounded:  # positions and attention begin anew after each separator
        ends = [i for i in range(r) if ids[i] == 256]
        begin = ends[-1] + 1 if ends else 0
    want = expected(ids[begin:r + 1], top=top)
    if known is not None:
        want = {i: p for i, p in want.items() if i in known}
    return row.keys() == want.keys() and all(abs(row[i] - p) < 2e-3 * max(p, 1e-2) + 2e-4 for i, p in want.items())


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llama"])
@pytest.mark.parametrize("corpus", ["corpus", "bounded"])
def test_ids(work, dialect, corpus):
    with TeacherServer(VOCAB, dialect) as server:
        done = connect(work, server)
        facts = json.loads((work / "server/server.json").read_text())
        assert facts["dialect"] == dialect and facts["sends_ids"] and not facts["shifted"] and facts["top_k"] == TOP
        assert ("cannot score prompts" in done.stdout) == (dialect == "llama")
        capture(work, corpus=corpus)
    assert check_rows(work, corpus=corpus, bounded=corpus == "bounded") == WINDOW * WINDOWS


@pytest.mark.parametrize("errors", ["ignore", "replace"])
@pytest.mark.parametrize("shifted", [False, True])
def test_texts(work, errors, shifted):
    """Servers that take and give texts: tokens that are no whole character have no text, and their probability stays in the tail."""
    with TeacherServer(VOCAB, "echo", tokenizer=BYTES, errors=errors, shifted=shifted) as server:
        connect(work, server)
        facts = json.loads((work / "server/server.json").read_text())
        assert facts["dialect"] == "echo" and not facts["sends_ids"] and facts["shifted"] == shifted
        capture(work, "--least-coverage", 0.2)
    metrics = json.loads(overproof("show", work / "targets", "--json").stdout)
    scored = check_texts(work, shifted)
    assert scored > 0.2 * WINDOW * WINDOWS and "entries_without_id" in json.dumps(metrics)


def check_texts(work, shifted):
    """As check_rows, but the likeliest ids are those of the server's choice, less those without a text; the prompt's own may be added."""
    stream, rows, scored = windows_of(work, "corpus", WINDOWS), rows_of(work / "targets"), 0
    for block in range(WINDOWS):
        block_rows = rows[block * WINDOW:(block + 1) * WINDOW]
        if not any(block_rows):
            continue
        assert not shifted or not block_rows[0]
        fits = 0
        for w in range((len(stream) - 1) // WINDOW):
            ids = stream[w * WINDOW:(w + 1) * WINDOW + 1]
            fits += all(texts_agree(ids, r, row, shifted) for r, row in enumerate(block_rows) if row)
        assert fits == 1
        scored += sum(bool(row) for row in block_rows)
    return scored


def texts_agree(ids, r, row, shifted):
    logs = log_probabilities(ids[:r + 1], VOCAB)
    likeliest = set(int(i) for i in np.argsort(-logs, kind="stable")[:TOP]) | {ids[r] if shifted else ids[r + 1]}
    named = {i for i in likeliest if i < 128 or i == 256}
    return (set(row) <= named and len(row) >= len(named) - 1 and
            all(abs(p - np.exp(logs[i])) < 2e-3 * max(p, 1e-2) + 2e-4 for i, p in row.items()))


def failing(kind):
    """A fault of every third request, and the same request is right the next time."""
    def fault(server, number, body):
        if number < 4 or number % 3 or "prompt_logprobs" not in body:
            return None
        return kind(server, number, body)
    return fault


def right(server, body):
    return json.dumps(server.answer("/v1/completions", body)).encode()


PASSING = {
    "drops the connection mid-body": lambda s, n, b: (200, {}, right(s, b), 1000),
    "429 with Retry-After": lambda s, n, b: (429, {"Retry-After": "1"}, b'{"error": {"message": "slow down"}}', None),
    "429 with a date": lambda s, n, b: (429, {"Retry-After": formatdate(time.time() + 1.5, usegmt=True)}, b"", None),
    "500": lambda s, n, b: (500, {}, b"Internal Server Error", None),
    "503 without a body": lambda s, n, b: (503, {}, b"", None),
    "truncated JSON": lambda s, n, b: (200, {}, right(s, b)[:-40], None),
    "malformed JSON": lambda s, n, b: (200, {}, b"<html>busy</html>", None),
    "not a number": lambda s, n, b: (200, {}, right(s, b).replace(b'"logprob": -', b'"logprob": NaN, "x": -', 1), None),
    "another prompt's answer": lambda s, n, b: (200, {}, right(s, b | {"prompt": b["prompt"][::-1]}), None),
    "a shorter prompt's answer": lambda s, n, b: (200, {}, right(s, b | {"prompt": b["prompt"][:-1]}), None),
    "an id twice": lambda s, n, b: (200, {}, duplicate(right(s, b)), None),
    "an id outside the vocabulary": lambda s, n, b: (200, {}, right(s, b).replace(b'{"', b'{"999": {"logprob": -9}, "', 4), None),
    "a probability above one": lambda s, n, b: (200, {}, above_one(right(s, b)), None),
    "probabilities that sum to two": lambda s, n, b: (200, {}, sum_to_two(right(s, b)), None),
    "two choices": lambda s, n, b: (200, {}, json.dumps(twice(json.loads(right(s, b)))).encode(), None),
}


def duplicate(text):
    answer = json.loads(text)
    entry = next(iter(answer["choices"][0]["prompt_logprobs"][5].items()))
    key = json.dumps({entry[0]: entry[1]})[1:-1].encode()
    return text.replace(key, key + b", " + key, 1)


def above_one(text):
    answer = json.loads(text)
    next(iter(answer["choices"][0]["prompt_logprobs"][3].values()))["logprob"] = 0.7
    return json.dumps(answer).encode()


def sum_to_two(text):
    answer = json.loads(text)
    for entry in list(answer["choices"][0]["prompt_logprobs"][7].values())[:2]:
        entry["logprob"] = -0.01
    return json.dumps(answer).encode()


def twice(answer):
    answer["choices"] *= 2
    return answer


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass(work, name):
    with TeacherServer(VOCAB, "vllm", fault=failing(PASSING[name])) as server:
        connect(work, server)
        begin = time.monotonic()
        capture(work, "--concurrency", 2)
        assert "Retry-After" not in name or time.monotonic() - begin > 1
        assert server.requests > 2 + WINDOWS  # something was asked again
    assert check_rows(work) == WINDOW * WINDOWS


STAYING = {
    "wrong model": (lambda s, n, b: (lambda a: a | {"model": "another"}), 7, "answers as model 'another'"),
    "malformed JSON": (lambda s, n, b: (200, {}, b"{", None), 3, "not valid JSON"),
    "not a number": (lambda s, n, b: (200, {}, right(s, b).replace(b'"logprob": -', b'"logprob": NaN, "x": -', 1), None), 3, "not valid JSON"),
    "an id twice": (lambda s, n, b: (200, {}, duplicate(right(s, b)), None), 3, "twice"),
    "500": (lambda s, n, b: (500, {}, b"", None), 5, "HTTP status 500"),
    "400": (lambda s, n, b: (400, {}, b'{"error": {"message": "context too long"}}', None), 5, "context too long"),
    "401": (lambda s, n, b: (401, {}, b"", None), 5, "--key-variable"),
    "a wait of an hour": (lambda s, n, b: (429, {"Retry-After": "3600"}, b"", None), 5, "asks to wait 3600 s"),
    "drops every time": (lambda s, n, b: (200, {}, right(s, b), 10), 5, "gave no answer in 3 attempts"),
    "huge body": (lambda s, n, b: (200, {}, b"[" + b"1," * (135 << 20) + b"1]", None), 3, "longer than"),
}


@pytest.mark.parametrize("name", STAYING)
def test_faults_that_stay(work, name):
    kind, code, message = STAYING[name]
    with TeacherServer(VOCAB, "vllm", fault=lambda s, n, b: kind(s, n, b) if n > 4 else None) as server:
        connect(work, server)
        done = capture(work, "--attempts", 3, "--concurrency", 1, code=code)
        assert message in done.stderr and not (work / "targets").exists()
        server.fault = None  # and then the same command ends it, without paying again for the two answers before the fault
        before = server.requests
        capture(work, "--attempts", 3, "--concurrency", 1)
        assert server.requests - before == WINDOWS - 2
    assert check_rows(work) == WINDOW * WINDOWS


def test_slow_servers_time_out(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
        server.delay = 5
        done = capture(work, "--timeout", 0.3, "--attempts", 2, code=5)
        assert "imed out" in done.stderr or "imeout" in done.stderr


def test_pace_and_concurrency(work):
    with TeacherServer(VOCAB, "vllm", delay=0.5) as server:
        connect(work, server)
        capture(work, "--concurrency", 3)
        assert server.most_busy == 3
        server.delay, first, began = 0, server.requests, time.monotonic()
        capture(work, "--max-requests-per-minute", 240, "--seed", 5, out="paced")
        times = server.times[first:]
        # None arrives early; how late they arrive is the machine's affair.
        assert len(times) >= 3 and all(t - began >= 0.25 * i for i, t in enumerate(times))


def test_budget_and_dry_run(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
        estimate = json.loads(capture(work, "--dry-run", "--json").stdout)["estimate"]
        assert (estimate["requests"], estimate["paid_tokens"]) == (WINDOWS, WINDOWS * (WINDOW + 2)) and server.requests == 2
        done = capture(work, "--token-budget", 2 * (WINDOW + 2), code=6)
        assert "token budget" in done.stderr and server.requests == 4
        estimate = json.loads(capture(work, "--dry-run", "--json").stdout)["estimate"]
        assert estimate["requests"] == WINDOWS - 2
        capture(work)
        assert server.requests == 2 + WINDOWS
        capture(work, "--token-budget", 2 * (WINDOW + 2), out="again")  # all of it is there: nothing is paid
        assert server.requests == 2 + WINDOWS
    assert check_rows(work) == WINDOW * WINDOWS


SECRET = "sk-secret-0123456789abcdefghijklmnop"


@pytest.mark.parametrize("auth", ["bearer", "api-key"])
def test_keys_are_written_nowhere(work, auth):
    env = {"MY_KEY": SECRET}
    options = ["--auth", auth, "--key-variable", "MY_KEY"] + (["--api-version", "2026-01-01"] if auth == "api-key" else [])
    with TeacherServer(VOCAB, "vllm", key=SECRET) as server:
        said = connect(work, server, *options, env=env).stdout
        said += capture(work, "--key-variable", "MY_KEY", env=env).stdout
        assert all(SECRET in str(h) for h in server.headers)
        # A server that quotes the key in its error.
        server.key = "another"
        server.fault = None
        failed = capture(work, "--key-variable", "MY_KEY", "--seed", 9, out="refused", env=env, code=5)
        said += failed.stdout + failed.stderr
        assert "***" in failed.stderr or auth == "api-key"
    assert SECRET not in said and SECRET[:8] not in said
    for file in work.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_urls_with_secrets_are_refused(work):
    for url in ("http://user:pass@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=x", "ftp://127.0.0.1/v1"):
        done = overproof("connect", "--url", url, "--tokenizer", work / "teacher", "--out", work / "server", code=2)
        assert "pass" not in done.stderr.replace("password", "") and "key=x" not in done.stderr


def test_servers_that_give_text_only(work):
    with TeacherServer(VOCAB, "chat") as server:
        done = connect(work, server)
        assert "text only" in done.stdout
        assert "text only" in capture(work, code=7).stderr
    with TeacherServer(VOCAB, "nothing") as server:
        assert "gives nothing that can be used" in connect(work, server, code=7).stderr


def test_capped_log_probabilities(work):
    with TeacherServer(VOCAB, "vllm", cap=5) as server:
        connect(work, server)
        capture(work)
    assert check_rows(work, top=5) == WINDOW * WINDOWS


def test_no_answer_is_paid_for_twice(work):
    """Killed at every write: a request whose answer was kept is never sent again. Only the one in flight may be."""
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
        words = ["capture", "--teacher", work / "server", "--corpus", work / "corpus", "--tokens", WINDOW * WINDOWS, "--concurrency", 1]
        writes = count_writes(*words, "--out", work / "whole", file=work / "count")
        ledger = next((work / "checkpoints").glob("*.ledger"))
        assert writes > 2 * WINDOWS
        for at in range(1, writes + 1):
            ledger.unlink(missing_ok=True)
            before = len(server.answered)
            stopped(*words, "--out", work / f"at-{at}", at_write=at)
            overproof(*words, "--out", work / f"at-{at}")
            asked = [body for _, body in server.answered[before:]]
            assert WINDOWS <= len(asked) <= WINDOWS + 1 and len(set(asked)) == WINDOWS, at
            assert (work / f"at-{at}/targets.safetensors").read_bytes() == (work / "whole/targets.safetensors").read_bytes()


def test_interrupt_keeps_the_answers_in_flight(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
        server.delay = 0.5
        import subprocess
        words = [OVERPROOF, "capture", "--teacher", work / "server", "--corpus", work / "corpus", "--tokens", str(WINDOW * WINDOWS), "--concurrency", "2",
                 "--out", work / "targets"]
        running = subprocess.Popen([str(w) for w in words], env=inherited(), stderr=subprocess.PIPE)
        while server.requests < 4:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        server.delay = 0
        capture(work)
        assert server.requests == 2 + WINDOWS
    assert check_rows(work) == WINDOW * WINDOWS


def test_a_damaged_ledger_is_refused(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
        capture(work)
        ledger = next((work / "checkpoints").glob("*.ledger"))
        data = bytearray(ledger.read_bytes())
        data[200] ^= 1
        ledger.write_bytes(data)
        assert "damaged" in capture(work, out="again", code=3).stderr
        assert server.requests == 2 + WINDOWS


def test_the_student_learns_from_captured_targets_and_the_record_is_told(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server, "--license", "LicenseRef-OpenAI-terms", "--region", "eu-west", "--name", "big one")
        capture(work)
    overproof("observe", "--teacher", work / "teacher", "--corpus", work / "corpus", "--tokens", 512, "--out", work / "statistics")
    overproof("carve", "--teacher", work / "teacher", "--statistics", work / "statistics", "--experts", 7, "--shared", 1, "--top-k", 1, "--out", work / "init")
    overproof("distill", "--student", work / "init", "--targets", work / "targets", "--corpus", work / "corpus", "--batch-size", 2, "--steps", 2, "--out",
              work / "student")
    checked = overproof("audit", "verify", work)
    assert "recorded rows of a teacher that is out of reach" in checked.stdout
    refused = overproof("audit", "rows", work / "targets", "--seed", "00c0ffee", code=7)
    assert "record of a teacher that is out of reach" in refused.stderr
    # No audit sends anything, which would be paid for: not when the artifact is named, not when all stages are.
    before, again = server.requests, overproof("audit", "recompute", work / "targets", code=4)
    assert "what a server answered" in again.stdout and server.requests == before
    all_stages = overproof("audit", "recompute", work, "--stages", "connect,capture", code=4)
    assert all_stages.stdout.count("what a server answered") == 2
    # The terms of a teacher behind a URL hold an export back like those of a local one.
    held = overproof("export", work / "student", work / "gguf", code=None)
    assert held.returncode != 0 and "OpenAI" in held.stdout + held.stderr
    statement = json.loads(overproof("show", work / "targets", "--json").stdout)
    assert server.url in json.dumps(statement) and "recorded" in json.dumps(statement)
    page = overproof("audit", "sbom", work / "student", "--format", "cyclonedx", code=None)
    assert page.returncode == 0, page.stderr


def test_weights_are_not_looked_for_behind_a_url(work):
    with TeacherServer(VOCAB, "vllm") as server:
        connect(work, server)
    done = overproof("teach", "--teacher", work / "server", "--corpus", work / "corpus", "--out", work / "local", code=3)
    assert "overproof capture" in done.stderr
    assert KILLER.exists()


def test_targets_that_are_here_already(work):
    """Rows in three forms of other trainers, converted, against the rows of the formula in the context of the whole document."""
    import subprocess
    import sys
    stream, documents, begin = windows_of(work, "corpus", WINDOWS), [], 0
    for i, token in enumerate(stream):
        if token == 256:
            documents.append(stream[begin:i + 1])
            begin = i + 1
    rows = []
    for ids in documents[1:]:  # one document has no rows
        own = [None] + [[{"token": f"token_id:{j}", "logprob": float(np.log(p))} for j, p in expected(ids[:i]).items()] for i in range(1, len(ids))]
        rows.append({"input_ids": ids, "logprobs": own})
    (work / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    converted = subprocess.run([sys.executable, SOURCE / "tools/convert_targets.py", "--alignment", "own", work / "rows.jsonl"], capture_output=True, text=True,
                               check=True).stdout
    (work / "converted.jsonl").write_text(converted)
    lists = [{"input_ids": ids, "token_ids": [list(expected(ids[:i + 1])) for i in range(len(ids))],
              "top_values": [[float(np.log(p)) for p in expected(ids[:i + 1]).values()] for i in range(len(ids))]} for ids in documents[1:]]
    (work / "lists.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lists))
    as_lists = subprocess.run([sys.executable, SOURCE / "tools/convert_targets.py", "--alignment", "next", work / "lists.jsonl"], capture_output=True, text=True,
                              check=True).stdout
    (work / "lists.converted.jsonl").write_text(as_lists)
    refused = subprocess.run([sys.executable, SOURCE / "tools/convert_targets.py", "--alignment", "own", work / "lists.jsonl"], capture_output=True, text=True)
    assert refused.returncode != 0 and "--alignment" in refused.stderr
    overproof("connect", "--dialect", "offline", "--model", "big", "--tokenizer", work / "teacher", "--license", "MIT", "--out", work / "server")
    words = ["import-targets", "--teacher", work / "server", "--corpus", work / "corpus", "--tokens", WINDOW * WINDOWS, "--top-k", TOP]
    for name in ("converted", "lists.converted"):
        overproof(*words, "--source", work / f"{name}.jsonl", "--out", work / name.split(".")[0])
        got = rows_of(work / name.split(".")[0])
        found = 0
        for block in range(WINDOWS):
            block_rows, fits = got[block * WINDOW:(block + 1) * WINDOW], 0
            for w in range((len(stream) - 1) // WINDOW):
                fits += all(matches_document(stream, documents, w * WINDOW + r, row) for r, row in enumerate(block_rows))
            assert fits == 1 or not any(block_rows)
            found += sum(bool(row) for row in block_rows)
        assert found > WINDOW * WINDOWS / 2
    assert "already" not in overproof(*words, "--source", work / "converted.jsonl", "--out", work / "all", "--least-coverage", 1, code=6).stderr
    broken = json.loads(converted.splitlines()[0])
    broken["top_logs"][3] = [-0.01] * len(broken["top_logs"][3])
    (work / "broken.jsonl").write_text(json.dumps(broken) + "\n")
    assert "sum to" in overproof(*words, "--source", work / "broken.jsonl", "--out", work / "all", code=3).stderr


def matches_document(stream, documents, position, row):
    begin = 0
    for number, ids in enumerate(documents):
        if position < begin + len(ids):
            place = position - begin
            if number == 0:
                return not row
            if place == len(ids) - 1 and not row:  # what follows the end is not known to a list of the tokens' own
                return True
            want = expected(ids[:place + 1])
            return row.keys() == want.keys() and all(abs(row[i] - p) < 2e-3 * max(p, 1e-2) + 2e-4 for i, p in want.items())
        begin += len(ids)
    return not row  # the last document, cut by the end of the stream


def test_texts_that_are_here_already(work):
    overproof("connect", "--dialect", "offline", "--model", "big", "--tokenizer", work / "teacher", "--license", "LicenseRef-OpenAI-terms", "--out", work / "server")
    records = [{"prompt": f"What is {i}? ", "completion": f"It is {i}, which is a number among others. " * 2} for i in range(40)]
    (work / "answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + json.dumps({"text": "A plain text. " * 8, "name": "mine"}) + "\n")
    overproof("import-samples", "--source", work / "answers.jsonl", "--teacher", work / "server", "--license", "LicenseRef-OpenAI-terms", "--out", work / "samples")
    overproof("corpus", "--samples", work / "samples", "--tokenizer", work / "teacher", "--window-length", 32, "--held-out", 0, "--out", work / "answers")
    lines = [json.loads(line) for line in (work / "answers/documents.jsonl").read_text().splitlines()]
    assert len(lines) == 41 and {line["license"] for line in lines} == {"LicenseRef-OpenAI-terms"} and all("server" in line["source"] for line in lines)
    overproof("audit", "verify", work)
    (work / "bad.jsonl").write_text('{"prompt": "x"}\n')
    overproof("import-samples", "--source", work / "bad.jsonl", "--teacher", work / "server", "--out", work / "more", code=3)
