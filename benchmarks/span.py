#!/usr/bin/env python3
"""Passages of a text found in a corpus: build time, bytes per token, latency of whole commands, warm and cold.

    benchmarks/span.py BUILD TOKENIZER TEXTS [--megabytes 64,512] [--document-bytes 4000] [--queries 200] [--shard-bytes N] [--folder DIR]

TEXTS is a source of `overproof corpus` (the demo's: .cache/debian-corpus); TOKENIZER is the model with its tokenizer. First the corpus itself
is measured, then synthetic ones of the given sizes: half of their sentences are from TEXTS, so that much of it repeats,
half are random words by Zipf's law. `--megabytes 3500 --document-bytes 300` makes some 10 million documents of 100 tokens.
A query is 200 words: three passages of 20 words planted from documents drawn at random, between random words. Every planted passage
must be found in its document, else this ends with an error. Compared with `grep -F` of one passage over the same texts, in the same run and
from memory.
"""
import argparse
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SEED = 20261124


class Told:
    """Output of a command, its wall time and its CPU time; with `watched` also its peak memory in megabytes, without mapped files."""

    def __init__(self, *words, watched=False):
        self.megabytes = 0
        with tempfile.TemporaryFile("w+") as errors:
            start = time.perf_counter()
            child = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, stderr=errors, text=True)
            done = threading.Event()
            if watched:
                threading.Thread(target=self.watch, args=(child.pid, done)).start()
            self.text = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)
            self.wall = time.perf_counter() - start
            done.set()
            child.returncode = os.waitstatus_to_exitcode(status)
            self.cpu = used.ru_utime + used.ru_stime
            if child.returncode != 0:
                errors.seek(0)
                sys.exit(f"{' '.join(map(str, words))}: {errors.read()}")

    def watch(self, pid, done):
        while not done.wait(0.1):
            try:
                found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
            except OSError:
                break
            self.megabytes = max(self.megabytes, int(found[1]) / 1000 if found else 0)


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def forget(folder):
    """Removes a folder's files from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def synthesize(texts, folder, megabytes, document_bytes, rng):
    """documents.jsonl with the texts."""
    sentences = [s.strip() for f in sorted(texts.rglob("*.txt"))[:4000] for s in f.read_text(errors="ignore").split(". ") if 40 < len(s) < 400]
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(50000)]
    weights = list(itertools.accumulate(1 / (i + 10) for i in range(len(words))))
    done = number = 0
    folder.mkdir(parents=True)
    with open(folder / "documents.jsonl", "w") as table:
        while done < megabytes * 1_000_000:
            parts, size = [], 0
            while size < document_bytes:
                part = rng.choice(sentences) if rng.random() < 0.5 else " ".join(rng.choices(words, cum_weights=weights, k=18))
                parts.append(part)
                size += len(part) + 2
            text = ". ".join(parts) + f". Document {number}.\n"
            table.write(json.dumps({"name": f"{number:08d}", "license": "CC0-1.0", "source": f"part-{number % 16}", "text": text}) + "\n")
            done += len(text.encode())
            number += 1


def texts_of(corpus, rng, count):
    """Some documents of the artifact, drawn at random by position in its files."""
    files = sorted((corpus / "texts").glob("*.jsonl"))
    sizes = [f.stat().st_size for f in files]
    found = []
    while len(found) < count:
        file = rng.choices(files, sizes)[0]
        with open(file, "rb") as lines:
            lines.seek(rng.randrange(file.stat().st_size))
            lines.readline()
            line = lines.readline()
        if line and len(record := json.loads(line)["text"].split(" ")) > 24:
            found.append((json.loads(line)["name"], json.loads(line)["text"], record))
    return found


def measure(overproof, run, tokens, options):
    rng = random.Random(SEED)
    made = Told(overproof, "index", "--corpus", run / "corpus", "--out", run / "index", "--shard-bytes", options.shard_bytes, "--json", watched=True)
    metrics = json.loads(made.text)["metrics"]
    size = sum(f.stat().st_size for f in (run / "index").glob("*.safetensors"))
    print(f"  index: {metrics['shards']} shards in {made.wall:.1f} s, {made.cpu:.1f} CPU-seconds ({metrics['bytes'] / 1e6 / made.cpu:.1f} MB of each), "
          f"{made.megabytes:.0f} MB of memory; {size / tokens:.2f} bytes a token, {size / metrics['bytes']:.2f} a byte of text", flush=True)

    noise = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    warm, cold, used = [], [], []
    for n in range(options.queries):
        parts, planted = [], []
        for name, text, words in texts_of(run / "corpus", rng, 3):
            at = rng.randrange(1, len(words) - 21)
            passage = " ".join(words[at:at + 20])
            planted.append((name, passage, " ".join(words[:at]).count(passage)))
            parts += [" ".join(rng.choices(noise, k=46)), passage]
        (run / "query.txt").write_text(" ".join(parts + [" ".join(rng.choices(noise, k=2))]))
        is_cold = n % 4 == 0
        if is_cold:
            forget(run / "index")
            forget(run / "corpus")
        answer = Told(overproof, "audit", "trace", run, "--span", f"@{run / 'query.txt'}", "--verify", "sizes", "--documents", 1000, "--json")
        (cold if is_cold else warm).append(1000 * answer.wall)
        used.append(1000 * answer.cpu)
        told = json.loads(answer.text)
        for name, passage, _ in planted:
            # The passage may begin or end inside a word; a span must cover its words and name the document.
            core = re.search(r"\w.*\w", passage, re.DOTALL)
            core = core[0] if core else ""
            if len(core) < 40 or len(core.split()) < 10:
                continue
            spans = [s for s in told["spans"] if core in s["text"]]
            assert spans, (core, told["spans"])
            assert any(s["more_documents"] or name in {d["name"] for d in s["documents"]} for s in spans), (name, core)
    name, text, words = texts_of(run / "corpus", rng, 1)[0]
    passage = " ".join(words[1:21]).split("\n")[0]
    Told("sh", "-c", f"cat {run}/corpus/texts/*.jsonl > /dev/null")
    start = time.perf_counter()
    subprocess.run(["grep", "-rlF", "-e", passage, str(run / "corpus" / "texts")], capture_output=True)
    grep = 1000 * (time.perf_counter() - start)
    floor = []
    for _ in range(20):
        floor.append(1000 * Told(overproof, "--version").wall)
    for label, values in (("warm", warm), ("cold", cold)):
        print(f"  {label}: a command of 200 words p50 {statistics.median(values):.1f} ms, p99 {percentile(values, 0.99):.1f} ms, "
              f"worst {max(values):.1f} ms ({len(values)} queries)")
    print(f"  CPU time of a command: p50 {statistics.median(used):.1f} ms, p99 {percentile(used, 0.99):.1f} ms")
    print(f"  starting the program takes {statistics.median(floor):.1f} ms of that; grep -F of one passage {grep:.0f} ms, "
          f"{grep / statistics.median(warm):.1f} times a whole query")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--megabytes", default="64,512")
    parser.add_argument("--document-bytes", type=int, default=4000, help="size of a synthetic document")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--shard-bytes", type=int, default=1 << 28)
    parser.add_argument("--folder", type=pathlib.Path)
    options = parser.parse_args()
    overproof = options.build / "bin" / "overproof"
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
        for size in [0] + [int(m) for m in options.megabytes.split(",") if m]:
            run = folder / f"run-{size}"
            run.mkdir()
            source = options.texts
            if size:
                source = folder / "source"
                synthesize(options.texts, source, size, options.document_bytes, random.Random(SEED + size))
            made = Told(overproof, "corpus", "--source", source, "--tokenizer", options.tokenizer, "--out", run / "corpus", "--held-out", 0, "--json", watched=True)
            if size:
                shutil.rmtree(source)  # the artifact has a copy
            kept = json.loads(made.text)["metrics"]["splits"]["train"]
            print(f"{'synthetic ' + str(size) + ' MB' if size else 'the corpus itself'}: {kept['bytes'] / 1e6:.0f} MB of text, "
                  f"{kept['tokens'] / 1e6:.1f} million tokens, {kept['documents']} documents: artifact in {made.wall:.0f} s, "
                  f"{made.cpu:.1f} CPU-seconds, {made.megabytes:.0f} MB of memory", flush=True)
            measure(overproof, run, kept["tokens"], options)
            shutil.rmtree(run)


if __name__ == "__main__":
    main()
