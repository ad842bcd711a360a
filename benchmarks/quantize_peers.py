#!/usr/bin/env python3
"""`overproof quantize` compared with its peers on one checkpoint, in one run: wall time, GB/s of input, CPU seconds, peak memory.

    benchmarks/quantize_peers.py build/release/bin/overproof CHECKPOINT [--llama-quantize FILE] [--llmcompressor-python FILE] [--repeat 2]

CHECKPOINT is a bf16 folder (benchmarks/quantize_stream.py --make makes a synthetic one of any size). llama-quantize is built from llama.cpp;
the Python is one with llm-compressor. A peer that is not given is reported as missing. The best of the repeats counts. Every program runs
in a process of its own until its output is written; overproof's time includes fdatasync, digests and signatures, the peers' does not.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from quantize_stream import run_program

LLM_COMPRESSOR = """
import sys
from llmcompressor import model_free_ptq
model_free_ptq(model_stub=sys.argv[1], save_directory=sys.argv[2], scheme=sys.argv[3],
               ignore=["lm_head", "re:.*embed_tokens.*", "re:.*mlp.gate$", "re:.*norm.*"], max_workers=int(sys.argv[4]), device="cpu")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--llama-quantize", type=pathlib.Path)
    parser.add_argument("--llmcompressor-python", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, help="folder on the disk to measure")
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    size = sum(f.stat().st_size for f in args.checkpoint.glob("*.safetensors"))
    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-peers-", dir=args.folder))
    threads = len(os.sched_getaffinity(0))

    def measure(command, out):
        best = None
        for _ in range(args.repeat):
            if out.is_file():
                out.unlink()
            shutil.rmtree(out, ignore_errors=True)
            result = run_program([str(word) for word in command])
            best = min(best or result, result)
        return best

    def ours(scheme):
        return measure([args.program, "quantize", "--scheme", scheme, "--acknowledge", "unknown-ancestry,unspecified", "--model", args.checkpoint, "--out", work / scheme, "--key", work / "key.pem"],
                       work / scheme)

    def row(name, result, against=None):
        seconds, cpu, peak = result[:3]
        ratio = "" if against is None else f"   overproof: {seconds / against[0]:.1f} x the speed, {cpu / against[1]:.1f} x less CPU, {peak / against[2]:.1f} x less memory"
        print(f"{name:<36} {seconds:7.1f} s  {size / seconds / 1e9:5.2f} GB/s  {cpu:7.1f} CPU s  {peak / 2**20:7.0f} MiB{ratio}", flush=True)

    try:
        mine = {scheme: ours(scheme) for scheme in ("q8_0", "int8", "w8a8", "fp8-block")}
        for scheme, result in mine.items():
            row(f"overproof {scheme}", result)
        if args.llama_quantize:
            subprocess.run([args.program, "export", "--type", "bf16", args.checkpoint, work / "bf16", "--key", work / "key.pem",
                            "--acknowledge", "unknown-ancestry,unspecified"], check=True, stdout=subprocess.DEVNULL)
            row("llama-quantize Q8_0", measure([args.llama_quantize, work / "bf16" / "model.gguf", work / "peer.gguf", "Q8_0", threads],
                                               work / "peer.gguf"), mine["q8_0"])
            shutil.rmtree(work / "bf16")
        else:
            print("llama-quantize: not given")
        if args.llmcompressor_python:
            for scheme, scheme_of_ours in (("W8A8", "w8a8"), ("FP8_BLOCK", "fp8-block")):
                command = [args.llmcompressor_python, "-c", LLM_COMPRESSOR, args.checkpoint, work / "peer", scheme, threads]
                row(f"llm-compressor model_free_ptq {scheme}", measure(command, work / "peer"), mine[scheme_of_ours])
        else:
            print("llm-compressor: not given")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
