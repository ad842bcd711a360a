#!/usr/bin/env python3
"""Measures `overproof quantize` on a synthetic glm4_moe against the limits of disk and memory of this machine, in one run.

    benchmarks/quantize_stream.py build/release/bin/overproof --schemes int8 --folder /some/disk

Makes a bf16 model of --gigabytes (5 layers x 128 experts by default), then, --repeat times and keeping the best of each:
a direct write and a direct read of the model's bytes, both at once for the bytes that this scheme reads and writes, a copy in memory,
and the program: wall time until all bytes are on the disk, CPU seconds, peak memory. Then the program overproof-without-digests next to
it, if it was built (-DOVERPROOF_BENCHMARKS=ON), whose output is invalid, to measure the cost of SHA-256. All files are deleted at the end.

--cold drops the page cache before each run (needs root). It makes little difference, because reads and writes bypass the cache.
"""

import argparse
import ctypes
import json
import mmap
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

REQUEST = 8 << 20
LAYERS, EXPERTS, HIDDEN, INTERMEDIATE = 5, 128, 2048, 768


def model_tensors(layers, experts, vocabulary):
    """Name -> shape, in the order of the file."""
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(layers):
        p = f"model.layers.{layer}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        for name, shape in (("q", (2048, HIDDEN)), ("k", (256, HIDDEN)), ("v", (256, HIDDEN)), ("o", (HIDDEN, 2048))):
            yield f"{p}self_attn.{name}_proj.weight", shape
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate.weight", (experts, HIDDEN)
        yield p + "mlp.gate.e_score_correction_bias", (experts,)
        for expert in [f"experts.{e}" for e in range(experts)] + ["shared_experts"]:
            for name, shape in (("gate", (INTERMEDIATE, HIDDEN)), ("up", (INTERMEDIATE, HIDDEN)), ("down", (HIDDEN, INTERMEDIATE))):
                yield f"{p}mlp.{expert}.{name}_proj.weight", shape
    yield "model.norm.weight", (HIDDEN,)


def random_bf16(size):
    """Random weights of magnitude 2^-7 to 2^-4: any sign and mantissa, three exponents."""
    block = bytearray(os.urandom(size))
    block[1::2] = bytes(block[1::2]).translate(bytes((b & 0x80) | (0x3C + (b & 1)) for b in range(256)))
    return memoryview(bytes(block) * 2)


def write_model(folder, layers, experts, vocabulary, shard_bytes):
    folder.mkdir(parents=True)
    size = 61 << 20  # no multiple of a tensor's size, so that no two tensors are equal
    pool = random_bf16(size)
    shards, used = [[]], 0
    for name, shape in model_tensors(layers, experts, vocabulary):
        n = 2
        for d in shape:
            n *= d
        if used + n > shard_bytes and shards[-1]:
            shards.append([])
            used = 0
        shards[-1].append((name, shape, n))
        used += n
    total, weight_map, at = 0, {}, 0
    for i, shard in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape, n in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + n]}
            weight_map[name] = file
            offset += n
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 64)
        with open(folder / file, "wb", buffering=0) as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _, _, n in shard:
                while n > 0:
                    part = min(n, size)
                    n -= out.write(pool[at : at + part])
                    at = (at + part + 2 * 7919) % size // 2 * 2
            os.fsync(out.fileno())
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            total += out.tell()
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "hidden_size": HIDDEN, "num_hidden_layers": layers,
        "intermediate_size": INTERMEDIATE, "moe_intermediate_size": INTERMEDIATE, "n_routed_experts": experts, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu", "attention_bias": False, "use_qk_norm": False,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        "vocab_size": vocabulary, "tie_word_embeddings": True}))
    return total


def direct_write(path, size):
    buffer = mmap.mmap(-1, REQUEST)
    buffer.write(os.urandom(1 << 20) * (REQUEST >> 20))
    start = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    done = 0
    while done < size:
        done += os.pwrite(fd, buffer, done)
    os.fdatasync(fd)
    os.close(fd)
    return done / (time.monotonic() - start)


def direct_read(files):
    buffer = mmap.mmap(-1, REQUEST)
    start, done = time.monotonic(), 0
    for file in files:
        fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
        at = 0
        while got := os.preadv(fd, [buffer], at):
            at += got
            if got % 4096:
                break
        os.close(fd)
        done += at
    return done / (time.monotonic() - start)


def read_beside_write(files, path, size_out):
    """Seconds for reading `files` and writing `size_out` bytes at the same time: the disk's own limit for this scheme."""
    start = time.monotonic()
    writer = threading.Thread(target=direct_write, args=(path, size_out))
    writer.start()
    direct_read(files)
    writer.join()
    return time.monotonic() - start


def memory_copy():
    size = 256 << 20
    source, target = mmap.mmap(-1, size), mmap.mmap(-1, size)
    source.write(b"\1" * size)
    a, b = ctypes.c_char.from_buffer(source), ctypes.c_char.from_buffer(target)
    best = 0
    for _ in range(4):
        start = time.monotonic()
        ctypes.memmove(ctypes.addressof(b), ctypes.addressof(a), size)
        best = max(best, size / (time.monotonic() - start))
    del a, b
    return best


# A child inherits the peak memory of the process that forks it, so a small process forks it.
MEASURE = """
import json, os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, status]))
"""


def run_program(command):
    """(seconds, CPU seconds, peak bytes) of one run."""
    done = subprocess.run([sys.executable, "-S", "-c", MEASURE, *command], capture_output=True, text=True, check=True)
    *result, status = json.loads(done.stdout)
    if status != 0:
        sys.exit(f"{command}: {done.stderr}")
    return tuple(result)


def drop_caches(cold):
    os.sync()
    if cold:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, nargs="?", help="the built overproof")
    parser.add_argument("--make", type=pathlib.Path, metavar="FOLDER", help="only make the model in this folder, and keep it")
    parser.add_argument("--schemes", default="int8", help="comma-separated")
    parser.add_argument("--gigabytes", type=float, default=6.6)
    parser.add_argument("--folder", type=pathlib.Path, default=None, help="folder on the disk to measure; default: the temporary folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop caches before each run; needs root")
    args = parser.parse_args()
    if args.cold and os.geteuid() != 0:
        sys.exit("--cold needs root")

    fixed = 2 * 151_552 * HIDDEN if args.gigabytes > 3 else 2 * 4096 * HIDDEN
    experts = max(1, round((args.gigabytes * 1e9 - fixed) / (LAYERS * 6 * HIDDEN * INTERMEDIATE)))
    if args.make:
        print(f"{args.make}: {write_model(args.make, LAYERS, experts, fixed // HIDDEN // 2, 5_000_000_000) / 1e9:.2f} GB")
        return
    if not args.program:
        parser.error("name the program to measure, or --make FOLDER")

    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-stream-", dir=args.folder))
    try:
        total = write_model(work / "model", LAYERS, experts, fixed // HIDDEN // 2, 5_000_000_000)
        files = sorted((work / "model").glob("*.safetensors"))
        print(f"model: {total / 1e9:.2f} GB of bf16, {LAYERS} layers x {experts} experts, {len(files)} file(s)")

        without_digests = args.program.parent / "overproof-without-digests"

        for scheme in args.schemes.split(","):
            rates = {"memory copy": 0, "direct read": 0, "direct write": 0}
            best, bare, disk, size_out = None, None, None, 0
            command = [args.program, "quantize", "--scheme", scheme, "--model", work / "model", "--out", work / "out", "--key", work / "key.pem"]
            for _ in range(args.repeat):
                drop_caches(args.cold)
                result = run_program(command)
                size_out = sum(f.stat().st_size for f in (work / "out").iterdir() if f.suffix in (".safetensors", ".gguf"))
                shutil.rmtree(work / "out")
                best = min(best or result, result)
                drop_caches(args.cold)
                seconds = read_beside_write(files, work / "copy", size_out)
                disk = min(disk or seconds, seconds)
                rates["direct read"] = max(rates["direct read"], direct_read(files))
                rates["direct write"] = max(rates["direct write"], direct_write(work / "copy", size_out))
                (work / "copy").unlink()
                rates["memory copy"] = max(rates["memory copy"], memory_copy())
                if without_digests.exists():
                    result = run_program([without_digests, *command[1:]])
                    shutil.rmtree(work / "out")
                    bare = min(bare or result, result)
            limit = max(disk, total / rates["memory copy"])
            print(f"{scheme}: {best[0]:.2f} s, {total / best[0] / 1e9:.2f} GB/s of input, {best[1]:.1f} CPU s, {best[2] / 2**20:.0f} MiB at most; "
                  f"{total / 1e9:.2f} -> {size_out / 1e9:.2f} GB")
            for name, rate in rates.items():
                print(f"  {name:<34} {rate / 1e9:6.2f} GB/s")
            print(f"  reading and writing these bytes    {disk:6.2f} s: the disk's limit, {total / disk / 1e9:.2f} GB/s of input")
            print(f"  fraction of the limit of disk and memory: {limit / best[0]:.0%}")
            if bare:
                print(f"  without digests {bare[0]:.2f} s, {bare[1]:.1f} CPU s: they cost {best[0] / bare[0] - 1:.0%} of wall time")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
