#!/usr/bin/env python3
"""Tokens a second of `generate` and `sample`, with weights in every form, against f32 in memory and against llama.cpp, in one run.

    cmake --preset release -DOVERPROOF_BENCHMARKS=ON && cmake --build --preset release --target bench_decoding overproof
    benchmarks/decoding.py build/release MODEL [--tokens 64] [--threads 1,2] [--rounds 3]

MODEL is a checkpoint in 16 bits, e.g. a student of the demo, or a GGUF. The script makes from it, by this program: bf16 (as f32 widened
where MODEL is not in bf16), int8, and the GGUF files bf16 and Q8_0 that llama.cpp reads as well. Each line is one sequence and a batch of
16; `f32` is the way of keeping weights that the others are compared with. Programs take turns, and the best of all rounds counts. llama.cpp is the
one inside the wheel of xllamacpp (tools/requirements-test.txt), with its defaults. Ratios are of wall time, and then of CPU time, which is what
counts where other programs run at the same time; the load is printed.

GB/s is what the weights alone of one sequence make of memory; `memory` is what a plain sum over 256 MiB reaches.
"""
import argparse
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/interop"))
import llama_cpp  # noqa: E402


class Peer:
    """llama.cpp with a model, its defaults otherwise."""

    def __init__(self, path):
        self.lib = llama_cpp.library()
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError("".join(llama_cpp.messages[-12:]))
        self.vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))

    def decode(self, context, tokens):
        """tokens: (id, position, sequence, 1 where the logits are used)."""
        n = len(tokens)
        sequences = [(ctypes.c_int32 * 1)(s) for _, _, s, _ in tokens]
        batch = llama_cpp.Batch(n, (ctypes.c_int32 * n)(*[t[0] for t in tokens]), None, (ctypes.c_int32 * n)(*[t[1] for t in tokens]),
                                (ctypes.c_int32 * n)(*[1] * n),
                                (ctypes.POINTER(ctypes.c_int32) * n)(*[ctypes.cast(s, ctypes.POINTER(ctypes.c_int32)) for s in sequences]),
                                (ctypes.c_int8 * n)(*[t[3] for t in tokens]))
        if self.lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def speed(self, sequences, prompt, tokens, threads):
        """Rates as bench_decoding prints them, and the ids of the first sequence."""
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx = sequences * (prompt + tokens + 32)
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        context = self.lib.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError("".join(llama_cpp.messages[-12:]))
        ids = []
        for s in range(sequences):
            self.decode(context, [((37 * i + 11 * s + 100) % self.vocab, i, s, i == prompt - 1) for i in range(prompt)])
            ids.append(self.most_probable(context, prompt - 1))
        first, start, cpu = [], time.perf_counter(), time.process_time()
        for t in range(tokens):
            first.append(ids[0])
            self.decode(context, [(ids[s], prompt + t, s, 1) for s in range(sequences)])
            ids = [self.most_probable(context, s) for s in range(sequences)]
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        self.lib.llama_free(context)
        return {"per_second": sequences * tokens / seconds, "cpu_ms": 1e3 * cpu / (sequences * tokens)}, first

    def most_probable(self, context, row):
        return int(np.ctypeslib.as_array(self.lib.llama_get_logits_ith(context, row), (self.vocab,)).argmax())


def memory_rate():
    """GB/s of one thread that sums 256 MiB."""
    values, best = np.ones(1 << 25, dtype=np.float64), 1e9
    for _ in range(5):
        start = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - start)
    return values.nbytes / best * 1e-9


def keep(best, row):
    for part in ("prompt", "one", "batch"):
        if part in row:
            best[part]["per_second"] = max(best[part]["per_second"], row[part]["per_second"])
            best[part]["cpu_ms"] = min(best[part]["cpu_ms"], row[part]["cpu_ms"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}")
    parser.add_argument("--instructions", help="avx512, avx2 or plain, instead of the best that the processor has")
    parser.add_argument("--acknowledge", help="terms of the export, where it asks for them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overproof-decoding-") as folder:
        work = pathlib.Path(folder)

        def overproof(*words):
            subprocess.run([a.build / "bin" / "overproof", *map(str, words), "--key", work / "key.pem"], check=True, stdout=subprocess.DEVNULL)
            return words[-1]

        model = a.model
        int8 = overproof("quantize", "--scheme", "int8", model, work / "int8")
        terms = ["--acknowledge", a.acknowledge] if a.acknowledge else []
        q8_0 = overproof("quantize", "--scheme", "q8_0", *terms, model, work / "q8_0")
        bf16 = overproof("export", "--type", "bf16", *terms, model, work / "bf16")
        ours = {"f32": ["--f32", model], "as stored": [model], "bf16": [bf16], "int8": [int8], "q8_0": [q8_0]}
        peers = {"llama.cpp bf16": Peer(bf16 / "model.gguf"), "llama.cpp q8_0": Peer(q8_0 / "model.gguf")}
        if model.suffix == ".gguf":
            peers["llama.cpp as stored"] = Peer(model)
        sizes = ["--prompt", a.prompt, "--tokens", a.tokens, "--batch", a.batch]
        if a.instructions:
            sizes += ["--instructions", a.instructions]
        results = []
        for threads in map(int, a.threads.split(",")):
            best = {}
            for _ in range(a.rounds):
                for name, words in ours.items():
                    command = [a.build / "bin" / "bench_decoding", *words, *sizes, "--threads", threads]
                    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
                    row = json.loads(done.stdout)
                    keep(best.setdefault(name, row), row)
                for name, peer in peers.items():
                    one, first = peer.speed(1, a.prompt, a.tokens, threads)
                    batch, _ = peer.speed(a.batch, a.prompt, a.tokens, threads)
                    row = {"one": one, "batch": batch, "ids": first}
                    keep(best.setdefault(name, row), row)
            for name, row in best.items():
                results.append({"threads": threads, "name": name, **row})
        report = {"instructions": next(r["instructions"] for r in results if "instructions" in r), "load": os.getloadavg()[0],
                  "memory_gb_per_second": memory_rate(), "results": results}
        if a.json:
            print(json.dumps(report))
            return
        print(f"instructions {report['instructions']}, load {report['load']:.1f}, memory {report['memory_gb_per_second']:.1f} GB/s a thread")
        for threads in sorted({r["threads"] for r in results}):
            rows = [r for r in results if r["threads"] == threads]
            base = rows[0]
            print(f"\n{threads} threads{'':11} {'MB/token':>9} {'one/s':>7} {'of f32':>7} {'CPU ms':>7} {'of f32':>7} {'GB/s':>6} "
                  f"{'batch/s':>8} {'of one':>7} {'CPU ms':>7} {'of one':>7} {'prompt/s':>9}  weights")
            for r in rows:
                one, batch, size = r["one"], r["batch"], r.get("bytes_per_token")
                print(f"{r['name']:<20} " + (f"{size * 1e-6:9.1f}" if size else f"{'':9}")
                      + f" {one['per_second']:7.1f} {one['per_second'] / base['one']['per_second']:6.2f}x"
                      + f" {one['cpu_ms']:7.2f} {base['one']['cpu_ms'] / one['cpu_ms']:6.2f}x "
                      + (f"{one['per_second'] * size * 1e-9:6.1f}" if size else f"{'':6}")
                      + f" {batch['per_second']:8.1f} {batch['per_second'] / one['per_second']:6.2f}x"
                      + f" {batch['cpu_ms']:7.2f} {one['cpu_ms'] / batch['cpu_ms']:6.2f}x"
                      + (f" {r['prompt']['per_second']:9.0f}  {r['weights']}" if size else ""))
            by_name = {r["name"]: r for r in rows}
            for name, peer in (("bf16", "llama.cpp bf16"), ("q8_0", "llama.cpp q8_0"), ("as stored", "llama.cpp as stored")):
                if peer in by_name:
                    mine, theirs = by_name[name], by_name[peer]
                    same = sum(1 for x, y in zip(mine["ids"], theirs["ids"]) if x == y)
                    wall, cpu = ([mine[p][k] / theirs[p][k] for p in ("one", "batch")] for k in ("per_second", "cpu_ms"))
                    print(f"{name} against llama.cpp: {wall[0]:.2f} times its rate with one sequence, {wall[1]:.2f} with {a.batch}; by CPU time "
                          f"{1 / cpu[0]:.2f} and {1 / cpu[1]:.2f}; {same} of {len(mine['ids'])} ids equal")


if __name__ == "__main__":
    main()
