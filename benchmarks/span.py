#!/usr/bin/env python3
"""Passages of a text found in a corpus: build time, bytes a token, latency of whole commands, warm and cold.

    benchmarks/span.py BUILD TOKENIZER TEXTS [--megabytes 64,512] [--queries 200] [--shard-bytes N] [--folder DIR]

TEXTS is a source of `overproof corpus` (the demo's: .cache/debian-corpus); TOKENIZER cuts it (a teacher). First the corpus itself is
measured, then synthetic ones of the sizes asked for: half of their sentences are taken from TEXTS, so that there is much that
repeats, half are random words by Zipf's law. A query is 200 words: three passages of 20 words planted from documents drawn at random,
between random words. Every planted passage must be found in its document, or this ends with an error. `grep -F` of one passage over
the same texts, in the same run and from memory, is the yardstick.
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
import time

SEED = 20261124


def call(*words):
    answer = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if answer.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: {answer.stderr}")
    return answer.stdout


def cpu_seconds():
    """Of the programs that were run so far: what a machine that others use too cannot distort much."""
    used = os.times()
    return used.children_user + used.children_system


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def forget(folder):
    """Takes a folder's files out of the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def synthesize(texts, folder, megabytes, rng):
    """documents.jsonl and files of about 4 KB in folders of a thousand."""
    sentences = [s.strip() for f in sorted(texts.rglob("*.txt"))[:4000] for s in f.read_text(errors="ignore").split(". ") if 40 < len(s) < 400]
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(50000)]
    weights = list(itertools.accumulate(1 / (i + 10) for i in range(len(words))))
    done = number = 0
    folder.mkdir(parents=True)
    with open(folder / "documents.jsonl", "w") as table:
        while done < megabytes * 1_000_000:
            parts, size = [], 0
            drawn = iter(rng.choices(words, cum_weights=weights, k=450))
            while size < 4000:
                part = rng.choice(sentences) if rng.random() < 0.5 else " ".join(w for _, w in zip(range(18), drawn))
                parts.append(part)
                size += len(part) + 2
            name = f"{number // 1000:04d}/{number:07d}.txt"
            file = folder / name
            if number % 1000 == 0:
                file.parent.mkdir()
            data = (". ".join(parts) + f". Document {number}.\n").encode()
            file.write_bytes(data)
            table.write(json.dumps({"name": name, "license": "CC0-1.0", "source": f"part-{number % 16}"}) + "\n")
            done += len(data)
            number += 1


def texts_of(corpus, rng, count):
    """Some documents of the artifact, drawn at random by place in its files."""
    files = sorted((corpus / "texts").glob("*.jsonl"))
    sizes = [f.stat().st_size for f in files]
    found = []
    while len(found) < count:
        file = rng.choices(files, sizes)[0]
        with open(file, "rb") as lines:
            lines.seek(rng.randrange(file.stat().st_size))
            lines.readline()
            line = lines.readline()
        if line and len(record := json.loads(line)["text"].split(" ")) > 40:
            found.append((json.loads(line)["name"], json.loads(line)["text"], record))
    return found


def measure(overproof, run, options):
    rng = random.Random(SEED)
    start, cpu = time.time(), cpu_seconds()
    built = json.loads(call(overproof, "index", "--corpus", run / "corpus", "--out", run / "index", "--shard-bytes", options.shard_bytes, "--json"))
    wall, cpu = time.time() - start, cpu_seconds() - cpu
    metrics = built["metrics"]
    size = sum(f.stat().st_size for f in (run / "index").glob("*.safetensors"))
    tokens = sum(json.loads(line)["tokens"] for line in open(run / "corpus" / "documents.jsonl"))
    print(f"{metrics['bytes'] / 1e6:.0f} MB of text, {tokens / 1e6:.1f} million tokens, {metrics['documents']} documents, {metrics['shards']} shards: "
          f"built in {wall:.1f} s, {cpu:.1f} CPU-seconds ({metrics['bytes'] / 1e6 / cpu:.1f} MB of each), {size / tokens:.2f} bytes a token, "
          f"{size / metrics['bytes']:.2f} a byte of text")

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
        start, cpu = time.perf_counter(), cpu_seconds()
        told = json.loads(call(overproof, "audit", "trace", run, "--span", f"@{run / 'query.txt'}", "--verify", "sizes", "--documents", 1000, "--json"))
        (cold if is_cold else warm).append(1000 * (time.perf_counter() - start))
        used.append(1000 * (cpu_seconds() - cpu))
        for name, passage, _ in planted:
            # Ends of the passage may be no words; what counts is that a span covers its words and names the document.
            core = re.search(r"\w.*\w", passage, re.DOTALL)
            core = core[0] if core else ""
            if len(core) < 40 or len(core.split()) < 10:
                continue
            spans = [s for s in told["spans"] if core in s["text"]]
            assert spans, (core, told["spans"])
            assert any(s["more_documents"] or name in {d["name"] for d in s["documents"]} for s in spans), (name, core)
    name, text, words = texts_of(run / "corpus", rng, 1)[0]
    passage = " ".join(words[1:21]).split("\n")[0]
    call("sh", "-c", f"cat {run}/corpus/texts/*.jsonl > /dev/null")
    start = time.perf_counter()
    subprocess.run(["grep", "-rlF", "-e", passage, str(run / "corpus" / "texts")], capture_output=True)
    grep = 1000 * (time.perf_counter() - start)
    floor = []
    for _ in range(20):
        start = time.perf_counter()
        call(overproof, "--version")
        floor.append(1000 * (time.perf_counter() - start))
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
                synthesize(options.texts, source, size, random.Random(SEED + size))
            start = time.time()
            call(overproof, "corpus", "--source", source, "--tokenizer", options.tokenizer, "--out", run / "corpus", "--held-out", 0, "--json")
            print(f"{'synthetic ' + str(size) + ' MB' if size else 'the corpus itself'}: artifact in {time.time() - start:.0f} s")
            measure(overproof, run, options)
            shutil.rmtree(run)
            if size:
                shutil.rmtree(source)


if __name__ == "__main__":
    main()
