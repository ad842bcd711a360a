#!/usr/bin/env python3
"""Measures SHA-256 of a model's folder, and signing it again after a small change, compared with OpenSSL and PyPI model-signing in one run.

    benchmarks/digest.py build/release/bin/overproof --folder /some/disk

Makes two folders of --gigabytes random bytes, one with a single file and one with shards of a gigabyte, and reads them once, so that they
are in the page cache. Then, best of --repeat: `openssl dgst -sha256`, `model_signing sign key` and `verify key`, `overproof sign` without a
cache, and with one: nothing changed, 1 KiB changed at the beginning, in the middle and at the end of the last file, and with
--trust-change-time. Every signature made after a change is checked: its digests are compared with hashlib's at the end of the run, and
model-signing verifies the last one. All files are deleted at the end.
"""

import argparse
import base64
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time


def run(words, env=None):
    """(seconds, CPU seconds) of a program that must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env={**os.environ, **(env or {})})
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{words}: {done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(label, results, size):
    seconds, cpu = (min(r[i] for r in results) for i in (0, 1))
    print(f"  {label:<58} {seconds:6.2f} s  {cpu:6.2f} CPU s  {size / seconds / 1e9:6.2f} GB/s  {size / cpu / 1e9:6.2f} GB/CPU-s", flush=True)


def make(folder, files, size):
    folder.mkdir(parents=True)
    block = os.urandom(64 << 20)
    for i in range(files):
        with open(folder / f"model-{i + 1:05}-of-{files:05}.safetensors", "wb") as out:
            left = size // files
            while left > 0:
                at = (i * 7919 + left) % (1 << 20)
                left -= out.write(block[at : at + min(left, len(block) - at)])
            os.fsync(out.fileno())
    for file in folder.iterdir():
        with open(file, "rb") as f:
            while f.read(8 << 20):
                pass


def change(file, where):
    size = file.stat().st_size
    with open(file, "r+b") as f:
        f.seek({"beginning": 0, "middle": size // 2, "end": size - 1024}[where])
        f.write(os.urandom(1024))


def check_digests(folder):
    """The signature's digests against hashlib's."""
    bundle = json.loads((folder / "model.sig").read_text())
    for resource_ in json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]["resources"]:
        with open(folder / resource_["name"], "rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != resource_["digest"]:
                sys.exit(f"{folder / resource_['name']}: the digest in the signature is wrong")


def measure(program, folder, files, size, key, public, cache, repeat):
    make(folder, files, size)
    print(f"{folder.name}: {size / 1e9:.2f} GB in {files} file(s)")
    weights = sorted(folder.glob("*.safetensors"))
    sign = [program, "sign", folder, "--key", key, "--quiet"]
    cached = [*sign, "--cache", cache]
    again = range(repeat)
    row("openssl dgst -sha256", [run(["openssl", "dgst", "-sha256", *weights]) for _ in again], size)
    peer = [sys.executable, "-m", "model_signing"]
    signature = folder.parent / "peer.sig"
    row("model_signing sign key", [run([*peer, "sign", "key", folder, "--private_key", key, "--signature", signature]) for _ in again], size)
    row("model_signing verify key", [run([*peer, "verify", "key", folder, "--public_key", public, "--signature", signature]) for _ in again], size)
    row("overproof sign", [run(sign) for _ in again], size)
    row("overproof audit verify", [run([program, "audit", "verify", folder, "--public-key", public]) for _ in again], size)
    row("overproof sign --cache, the first time", [run(cached)], size)
    row("  nothing changed, everything read and checked", [run(cached) for _ in again], size)
    for where in ("end", "middle", "beginning"):
        results = []
        for _ in again:
            change(weights[-1], where)
            results.append(run(cached))
        check_digests(folder)
        row(f"  1 KiB changed at the {where} of the last file", results, size)
    time.sleep(4)  # the cache does not record files that changed in the last seconds
    run(cached)
    row("  --trust-change-time, nothing changed", [run([*cached, "--trust-change-time"]) for _ in again], size)
    for where in ("end", "beginning"):
        change(weights[-1], where)
        row(f"  --trust-change-time, 1 KiB changed at the {where}", [run([*cached, "--trust-change-time"])], size)
        check_digests(folder)
    run([*peer, "verify", "key", folder, "--public_key", public, "--signature", folder / "model.sig"])
    shutil.rmtree(folder)
    cache.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="the built overproof")
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--folder", type=pathlib.Path, default=None, help="folder for the files; default: the temporary folder")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-digest-", dir=args.folder))
    try:
        key, public = work / "key.pem", work / "key.pub"
        run([args.program, "key", "new", "--out", key])
        public.write_text(subprocess.run([args.program, "key", "show", "--key", key, "--pem"], check=True, capture_output=True, text=True).stdout)
        size = int(args.gigabytes * (1 << 30)) // 4 * 4
        for name, files in (("one-file", 1), ("shards", 4)):
            measure(args.program, work / name, files, size, key, public, work / "cache.json", args.repeat)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
