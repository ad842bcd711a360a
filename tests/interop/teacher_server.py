"""A server on loopback that speaks the protocols of language-model servers and fails on request, for the tests of remote/.

Its model is a formula of the last three ids, so that a test knows every log-probability that must arrive. It counts what would be paid.
"""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def log_probabilities(ids, vocab):
    """[vocab] of the token after `ids`."""
    a, b, c = ([-3, -2, -1] + [int(i) for i in ids])[-3:]
    v = np.arange(vocab, dtype=np.float64)
    logits = 3 * np.sin(0.71 * v + 0.37 * c) + 2 * np.sin(0.13 * v * (b + 4)) + np.cos(0.29 * v + a)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


class TeacherServer:
    """`tokenizer`: of the tokenizers package, for dialects with text; `fault(server, number, body)` may return (status, headers, body, cut) to answer
    request `number` (from 1) otherwise, or a function that changes the right answer's JSON."""

    def __init__(self, vocab, dialect, tokenizer=None, fault=None, model="tiny", shifted=False, cap=255, errors="ignore", delay=0.0, key=None):
        self.vocab, self.dialect, self.tokenizer, self.fault, self.model = vocab, dialect, tokenizer, fault, model
        self.shifted, self.cap, self.errors, self.delay, self.key = shifted, cap, errors, delay, key
        self.requests, self.headers, self.answered, self.times, self.prompts = 0, [], [], [], []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(200, {}, json.dumps({"object": "list", "data": [{"id": outer.model}]}).encode())

            def reply(self, status, headers, body, cut=None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if cut is None else body[:cut])
                if cut is not None:
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer.lock:
                    outer.requests += 1
                    number = outer.requests
                    outer.busy += 1
                    outer.most_busy = max(outer.busy, outer.most_busy)
                    outer.headers.append(dict(self.headers))
                    outer.times.append(time.monotonic())
                try:
                    status, headers, answer, cut = outer.respond(self.path, json.loads(body), number)
                    self.reply(status, headers, answer, cut)
                    if status == 200 and cut is None:
                        with outer.lock:
                            outer.answered.append((self.path, body.decode()))
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with outer.lock:
                        outer.busy -= 1

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def respond(self, path, body, number):
        time.sleep(self.delay)
        sent = self.headers[number - 1]
        if self.key and self.key not in (sent.get("Authorization", "").removeprefix("Bearer "), sent.get("api-key")):
            return 401, {}, json.dumps({"error": {"message": f"Incorrect API key provided: {sent.get('Authorization')}"}}).encode(), None
        answer = self.answer(path.partition("?")[0], body)
        if answer is None:
            return 404, {}, b'{"error": {"message": "no such route"}}', None
        if isinstance(answer, str):
            return 400, {}, json.dumps({"error": {"message": answer}}).encode(), None
        change = self.fault(self, number, body) if self.fault else None
        if isinstance(change, tuple):
            return change
        if change:
            answer = change(answer)
        return 200, {}, json.dumps(answer).encode(), None  # as Python's json: NaN and Infinity are spelled out

    def top(self, ids, k):
        logs = log_probabilities(ids, self.vocab)
        order = np.argsort(-logs, kind="stable")[:k]
        return [(int(i), float(logs[i])) for i in order], logs

    def text(self, i):
        return self.token_bytes(i).decode("utf-8", errors=self.errors)

    def token_bytes(self, i):
        return self.tokenizer[i]

    def answer(self, path, body):
        k = body.get("prompt_logprobs") or body.get("logprobs") or body.get("top_logprobs_num") or body.get("n_probs") or 0
        if k is True or k > self.cap:
            return f"at most {self.cap} log-probabilities"
        if self.dialect == "sglang" and path == "/generate":
            return self.sglang(body["input_ids"], k)
        if self.dialect == "llama" and path == "/completion":
            return self.llama(body["prompt"], k)
        if self.dialect == "chat" and path == "/v1/chat/completions":
            return self.chat(body)
        if path != "/v1/completions" or self.dialect not in ("vllm", "echo", "completions"):
            return None
        prompt = body["prompt"]
        if self.dialect == "vllm" and "prompt_logprobs" in body:
            return self.vllm(prompt, k)
        if self.dialect == "echo" and body.get("echo"):
            if not isinstance(prompt, str):
                return "prompt must be a string"
            return self.echo(self.encode(prompt), k)
        if self.dialect == "completions" and not body.get("echo") and "logprobs" in body:
            ids = prompt if isinstance(prompt, list) else self.encode(prompt)
            entries = self.top(ids, k)[0]
            return self.wrap(ids, {"logprobs": {"tokens": [self.text(entries[0][0])], "top_logprobs": [self.texts(entries)]}})
        return "echo and prompt_logprobs are not supported"

    def encode(self, text):
        """Greedy longest match is enough for a tokenizer of single bytes."""
        by_bytes = {self.token_bytes(i): i for i in range(self.vocab) if self.token_bytes(i)}
        ids, data = [], text.encode()
        while data:
            piece = next(data[:n] for n in range(len(data), 0, -1) if data[:n] in by_bytes)
            ids.append(by_bytes[piece])
            data = data[len(piece):]
        return ids

    def texts(self, entries):
        return {self.text(i): x for i, x in entries}

    def wrap(self, ids, choice):
        return {"model": self.model, "choices": [{"index": 0, "text": "x", **choice}],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def vllm(self, ids, k):
        rows = [None]
        for i in range(1, len(ids)):
            entries, logs = self.top(ids[:i], k)
            row = {str(j): {"logprob": x, "rank": n + 1, "decoded_token": "?"} for n, (j, x) in enumerate(entries)}
            row.setdefault(str(ids[i]), {"logprob": float(logs[ids[i]]), "rank": 99, "decoded_token": "?"})
            rows.append(row)
        return self.wrap(ids, {"prompt_logprobs": rows, "prompt_token_ids": ids})

    def sglang(self, ids, k):
        own = [[None, ids[0], None]] + [[float(log_probabilities(ids[:i], self.vocab)[ids[i]]), ids[i], None] for i in range(1, len(ids))]
        rows = [None] + [[[x, j, None] for j, x in self.top(ids[:i], k)[0]] for i in range(1, len(ids))]
        return {"text": "x", "meta_info": {"prompt_tokens": len(ids), "completion_tokens": 1, "input_token_logprobs": own, "input_top_logprobs": rows}}

    def echo(self, ids, k):
        rows, own = [None], [None]
        for i in range(1, len(ids)):
            entries, logs = self.top(ids[:i + self.shifted], k)
            rows.append(self.texts(entries) | {self.text(ids[i]): float(logs[ids[i]])})
            own.append(float(logs[ids[i]]))
        return self.wrap(ids, {"logprobs": {"tokens": [self.text(i) for i in ids], "top_logprobs": rows, "token_logprobs": own,
                                            "text_offset": [0] * len(ids)}})

    def chat(self, body):
        """The answer repeats the question, so that a test knows which text belongs to which request."""
        asked = body["messages"][-1]["content"]
        content = f"Answer {body.get('seed')} to: {asked}" if "seed" in body else "Yes."
        return {"model": self.model, "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10 + len(asked.split()), "completion_tokens": len(content.split())}}

    def llama(self, ids, k):
        entries, _ = self.top(ids, k)
        row = [{"id": i, "token": "?", "bytes": [], "logprob": x} for i, x in entries]
        return {"model": self.model, "content": "x", "tokens_evaluated": len(ids), "tokens_predicted": 1,
                "completion_probabilities": [{"id": row[0]["id"], "token": "?", "bytes": [], "logprob": row[0]["logprob"], "top_logprobs": row}]}
