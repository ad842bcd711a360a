#!/usr/bin/env python3
"""Cost of provenance in a training run: step records, digests of the state, and the costs per run.

    benchmarks/provenance_overhead.py BUILD RUN [--steps 16] [--rounds 3]

RUN holds student-init, soft-targets and corpus, such as runs/smollm2-moe. First the parts, in one process (bench_provenance); then whole
runs of `overproof distill`, alternately with records and without (--digest-every 0), measured in processor time, which varies less than wall
time on a busy machine. Both must write the same weights.
"""
import argparse
import hashlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("build", type=pathlib.Path)
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("--steps", type=int, default=16)
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()
inputs = [options.run / name for name in ("student-init", "soft-targets", "corpus")]

pieces = json.loads(subprocess.run([options.build / "bin/bench_provenance", *inputs, "--steps", "5"], check=True, capture_output=True, text=True).stdout)
state = pieces["state_bytes"]
print(f"a step of {pieces['step_tokens']} tokens                      {pieces['step_seconds'] * 1e3:10.1f} ms")
print(f"batch root and record                       {pieces['record_seconds'] * 1e3:10.3f} ms")
print(f"digests of weights and optimizer, {state / 1e9:4.2f} GB   {pieces['digest_seconds'] * 1e3:10.1f} ms "
      f"({state / pieces['digest_seconds'] / 1e9:.2f} GB/s on {pieces['threads']} threads), every {pieces['digest_every']} steps")
print(f"together                                    {100 * pieces['overhead']:10.2f} % of the training")
print(f"once a run: digests of inputs {pieces['once_hash_inputs_seconds']:.2f} s, of outputs {pieces['once_hash_outputs_seconds']:.2f} s, "
      f"both signatures {pieces['once_seal_seconds'] * 1e3:.1f} ms, digest of the weights it begins with (a third of a state or more)")


def train(folder, name, every):
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    words = [options.build / "bin/overproof", "distill", "--student", inputs[0], "--targets", inputs[1], "--corpus", inputs[2], "--out", out,
             "--steps", options.steps, "--digest-every", every, "--checkpoint-every", 0, "--key", folder / "key.pem", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = json.loads(subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True).stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, answer["seconds"], hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), answer["metrics"]


with tempfile.TemporaryDirectory(prefix="overproof-provenance-") as folder:
    folder = pathlib.Path(folder)
    ratios, clocks = [], []
    for turn in range(options.rounds):
        order = [("with", -1), ("without", 0)]
        done = {name: train(folder, name, every) for name, every in (order if turn % 2 == 0 else order[::-1])}
        if done["with"][2] != done["without"][2]:
            sys.exit("records changed the weights")
        assert "step_chain" in done["with"][3] and "step_chain" not in done["without"][3]
        ratios.append(done["with"][0] / done["without"][0] - 1)
        clocks.append(done["with"][1] / done["without"][1] - 1)
        print(f"round {turn + 1}: {options.steps} steps, {done['without'][0]:.1f} s of processor time without, {done['with'][0]:.1f} s with: "
              f"{100 * ratios[-1]:+.2f} % (by the clock {100 * clocks[-1]:+.2f} %)", flush=True)
    segments = done["with"][3]["segments"]
print(f"whole runs: {100 * statistics.median(ratios):+.2f} % (median of {options.rounds}); {segments} segment(s) in {options.steps} steps")
seconds = pieces["step_seconds"] * pieces["digest_every"]
print(f"59 segments of a long run, each from a state kept before it: {59 * pieces['digest_every']} steps and {59} loads, {59 * seconds / 60:.0f} min "
      f"here, to catch 5 % of forged segments with 95 %; 300 segments for 1 %: {300 * seconds / 3600:.1f} h")
