#!/usr/bin/env python3
"""Quality of every scheme: KL to the unquantized model, agreement and size, on prose and on code.

    benchmarks/quality.py BUILD MODEL CORPUS [--tokens 4096] [--schemes int8,fp8,...]

MODEL is a checkpoint, for example the default teacher, CORPUS an artifact made with its tokenizer: its held-out documents are the prose, the
standard library of this Python the code. Calibrated rows use 4,096 tokens of the corpus. Prints one line per scheme; --json prints JSON.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

DATA_FREE = ["int8", "int8 --clipping mse", "int8-g128", "q8_0", "fp8", "fp8 --per-tensor", "fp8-block", "fp8-native", "mxfp8", "w8a8"]
CALIBRATED = ["w8a8 --smooth", "w8a8 --gptq", "w8a8 --smooth --gptq", "w8a8-static --smooth --gptq", "w8a8-static --asymmetric --smooth --gptq"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("build", "model", "corpus"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--schemes", default=",".join(DATA_FREE + CALIBRATED))
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-quality-"))
    key = ["--key", work / "key.pem"]

    def overproof(*words):
        done = subprocess.run([a.build / "bin" / "overproof", *map(str, words), "--json"], capture_output=True, text=True)
        if done.returncode == 2 and "cannot hold any" in done.stderr:
            return None
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    try:
        code = work / "code.py"
        stdlib = pathlib.Path(sysconfig.get_paths()["stdlib"])
        code.write_text("".join(f.read_text(errors="replace")[:8000] for f in sorted(stdlib.glob("*.py"))[::9]))
        schemes = a.schemes.split(",")
        activations, seconds = [], 0.0
        if any("--smooth" in s or "--gptq" in s or "static" in s for s in schemes):
            start = time.time()
            overproof("activations", "--model", a.model, "--corpus", a.corpus, "--tokens", 4096, "--hessians", "--out", work / "activations", *key)
            seconds = time.time() - start
            activations = ["--activations", work / "activations"]
        for scheme in schemes:
            words = ["quantize", a.model, work / "out", "--scheme", *scheme.split(), "--evaluate-tokens", a.tokens, "--force", *key,
                     "--acknowledge", "unknown-ancestry,unspecified"]  # what q8_0 asks of a model from outside
            if "--smooth" in scheme or "--gptq" in scheme or "static" in scheme:
                words += activations
            prose = overproof(*words, "--evaluate", "--corpus", a.corpus)
            if prose is None:
                print(f"{scheme}: no weight of this model has the shape that it needs")
                continue
            python = overproof(*words, "--evaluate", "--text", code)
            p, c = prose["metrics"]["quality"], python["metrics"]["quality"]
            start = time.time()
            overproof(*[w for w in words if w not in ("--evaluate-tokens", a.tokens)])
            made = time.time() - start + (seconds if activations and activations[0] in words else 0)
            row = {"scheme": scheme, "kl_prose": p["kl_mean"], "kl_code": c["kl_mean"], "top1_prose": p["top1_agreement"],
                   "perplexity_ratio": p["perplexity_ratio"], "bytes": prose["metrics"]["bytes_out"], "seconds": made}
            print(json.dumps(row) if a.json else f"{scheme:<44} KL {p['kl_mean']:.4f} / {c['kl_mean']:.4f}  top-1 {100 * p['top1_agreement']:.1f} %  "
                  f"perplexity x {p['perplexity_ratio']:.4f}  {row['bytes'] / 1e6:7.1f} MB  {made:5.1f} s", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
