#!/usr/bin/env python3
"""Runs the built benchmark programs and prints their rates relative to the machine's limit or to a peer.

    cmake --preset release -DOVERPROOF_BENCHMARKS=ON && cmake --build --preset release
    benchmarks/run.py build/release

Each program checks its own results; a wrong one ends this run with an error. Ratios come from one run on one machine: run
it on a quiet one.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys


def run_program(build, name):
    """Benchmark name -> bytes per second."""
    program = build / "bin" / f"bench_{name}"
    if not program.exists():
        sys.exit(f"{program} is missing: configure with -DOVERPROOF_BENCHMARKS=ON and build")
    done = subprocess.run([program, "--benchmark_format=json"], check=True, capture_output=True, text=True)
    rates = {}
    for result in json.loads(done.stdout)["benchmarks"]:
        if result.get("error_occurred"):
            if "lacks" in result["error_message"]:
                continue
            sys.exit(f"{result['name']}: {result['error_message']}")
        rates[result["name"]] = result["bytes_per_second"]
    return rates


def openssl_sha256(block_bytes):
    """Bytes per second of `openssl speed`."""
    command = ["openssl", "speed", "-seconds", "2", "-bytes", str(block_bytes), "sha256"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"^sha256\s+([0-9.]+)k", text, re.MULTILINE).group(1)) * 1000


def row(label, rate, against, limit):
    print(f"{label:<42} {rate / 1e9:>7.2f} GB/s   {rate / limit:>5.2f} x {against} ({limit / 1e9:.2f} GB/s)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder")
    build = parser.parse_args().build

    rates = run_program(build, "quantize")
    for name, rate in rates.items():
        scheme, _, rest = name.partition("/")
        if scheme != "memory_copy":
            kernels, threads = rest.split("/", 1)  # with one thread rates are per CPU-second, with two per second
            threads_label = "one core" if threads == "1" else "two threads"
            row(f"bf16 -> {scheme}, {kernels}, {threads_label}", rate, "memory copy", rates[f"memory_copy/{threads}"])

    block = 1 << 20
    peer = openssl_sha256(block)
    for name, rate in run_program(build, "digest").items():
        messages = re.match(r"sha256_together/(\d+)", name)
        row(f"SHA-256, {messages[1]} messages together" if messages else "SHA-256", rate, "openssl speed", peer)


if __name__ == "__main__":
    main()
