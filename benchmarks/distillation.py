#!/usr/bin/env python3
"""`overproof distill` against TRL's and DistillKit's trainers: same student, teacher, windows in the same order, batch, loss, optimizer and threads.

    tools/peers.sh                                                    # once: TRL, into .cache/peers
    git clone https://github.com/arcee-ai/DistillKit DistillKit       # not on PyPI
    benchmarks/distillation.py build/release runs/distillation --distillkit DistillKit

The student is the demo's `half` as `recover` leaves it (benchmarks/half.ini), glm4_moe in transformers; the teacher SmolLM2-135M-Instruct, dequantised to f32 for
all. Every weight is trained by AdamW at a constant rate on forward KL over the whole vocabulary, the teacher running alongside. One more row is this program on stored
targets (26 draws), for which the teacher ran once before.

Peers are tried with experts as transformers chooses by default, as loops (eager) and as grouped products (grouped_mm), and with f32 weights, f32 weights with
bf16 autocast, and bf16 weights; the fastest counts. DistillKit, whose model code is the same, is tried in the two configurations that were fastest for TRL, and in
f32. This program takes the number type that `--compute auto` finds.

tokens/s: from the end of the first step to the end of the last. KL: on held-out windows, measured for all by `overproof evaluate`; after equal tokens, and
when the peer has trained as long as this program did, at the end of the step in which that time is over. Every program runs in a process of its own, so that
peak memory is separate. The losses of the first step, all in f32, have to agree within 1 %, or nothing is comparable and the benchmark fails.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LENGTH = 256

TEACHER = r"""
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
gguf, folder = sys.argv[1:]
place, name = gguf.rsplit("/", 1)
loaded = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
values = loaded.config.to_dict()
values.pop("quantization_config", None)
teacher = LlamaForCausalLM(LlamaConfig.from_dict(values))
teacher.load_state_dict(loaded.state_dict())
teacher.save_pretrained(folder)
AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder)
"""


def load_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensors_of(file):
    """Header and bytes of a safetensors file."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def training_windows(corpus, targets, count, out):
    """The ids of the windows in the order of training, which the soft targets commit to (data/order.h), as [count, LENGTH + 1]."""
    import numpy
    permute = load_module(ROOT / "tests" / "golden" / "order" / "generate.py").permute
    header, data = tensors_of(corpus / "tokens.safetensors")
    entry = header["train"]
    stream = numpy.frombuffer(data[slice(*entry["data_offsets"])], {"U16": "<u2", "U32": "<u4"}[entry["dtype"]])
    header, _ = tensors_of(targets / "targets.safetensors")
    key = bytes.fromhex(header["__metadata__"]["order_key"].removeprefix("sha256:"))
    taught = header["row_lengths"]["shape"][0] // LENGTH
    windows = (len(stream) - 1) // LENGTH
    rows = []
    for position in range(count):
        block = permute(key, position // taught + 1, taught, position % taught)
        window = permute(key, 0, windows, block)
        rows.append(stream[window * LENGTH:(window + 1) * LENGTH + 1].astype("int64"))
    numpy.save(out, numpy.stack(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path, help="run folder; what is there is used")
    parser.add_argument("--peers", type=pathlib.Path, default=pathlib.Path(os.environ.get("OVERPROOF_CACHE", ROOT / ".cache")) / "peers")
    parser.add_argument("--distillkit", type=pathlib.Path, help="a checkout of arcee-ai/DistillKit; without it, its row is left out with a note")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="windows of 256 tokens a step")
    parser.add_argument("--micro-batch", type=int, default=2, help="of this program")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--held-out", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--probe-steps", type=int, default=2, help="timed steps by which a peer's configurations are compared")
    parser.add_argument("--dtypes", default="f32,autocast,bf16", help="of the peers")
    parser.add_argument("--experts", default="default,eager,grouped_mm", help="of the peers")
    parser.add_argument("--set", action="append", default=[], help="of benchmarks/half.ini: section.key=value")
    a = parser.parse_args()
    run, build = a.run.resolve(), a.build.resolve()
    run.mkdir(parents=True, exist_ok=True)
    if not (a.peers / "trl").is_dir():
        sys.exit(f"{a.peers} has no TRL; tools/peers.sh installs it")
    key = ["--key", run / "key.pem", "--threads", a.threads]

    def command(*words):
        return [str(w) for w in (build / "bin" / "overproof", *words, *key, "--json")]

    def overproof(*words):
        done = subprocess.run(command(*words), capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            sys.exit(f"overproof {words[0]} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    overproof("run", ROOT / "benchmarks" / "half.ini", "--out", run, *[word for one in a.set for word in ("--set", one)])
    corpus, teacher, start = run / "corpus", run / "teacher", run / "recovered"
    targets = run / f"targets-{a.steps * a.batch}"
    overproof("teach", "--teacher", teacher, "--corpus", corpus, "--tokens", a.steps * a.batch * LENGTH, "--out", targets)
    hf = run / "peers" / "teacher"
    if not (hf / "config.json").exists():
        subprocess.run([sys.executable, "-c", TEACHER, next(teacher.glob("*.gguf")), hf], check=True, capture_output=True, cwd=ROOT)
    most = 4 * a.steps + 1
    training_windows(corpus, targets, most * a.batch, run / "peers" / "windows.npy")

    def ours(name, *more, steps=a.steps):
        """A run of `distill`, whose log has a line when a step ends."""
        shutil.rmtree(run / name, ignore_errors=True)
        log = run / "training-logs" / name / "steps.jsonl"
        log.unlink(missing_ok=True)
        words = command("distill", "--student", start, "--targets", targets, "--corpus", corpus, "--loss", "forward-kl=1", "--steps", steps, "--batch-size", a.batch,
                        "--micro-batch", a.micro_batch, "--learning-rate", a.rate, "--router-lr-scale", 1, "--balance-rate", 0, "--schedule", "constant", "--warmup", 0,
                        "--train", "all", "--dtype", "f32", "--digest-every", 0, "--checkpoint-every", 0, "--out", run / name, *more)
        with open(run / f"{name}.json", "wb") as answer, open(run / f"{name}.log", "wb") as errors:
            process = subprocess.Popen(words, stdout=answer, stderr=errors, cwd=ROOT)
            ends = []
            while True:
                done, status, usage = os.wait4(process.pid, os.WNOHANG)
                lines = log.read_bytes().count(b"\n") if log.exists() else 0
                ends += [time.time()] * (lines - len(ends))
                if done:
                    break
                time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"distill failed:\n{(run / f'{name}.log').read_text()[-3000:]}")
        first = json.loads(log.read_text().splitlines()[0])["loss"]
        compute = json.loads((run / f"{name}.json").read_text().splitlines()[-1])["metrics"]["compute"]
        return {"seconds_a_step": (ends[-1] - ends[0]) / (len(ends) - 1), "seconds": ends[-1] - ends[0], "peak_gib": usage.ru_maxrss / 2**20, "first_loss": first,
                "compute": compute, "model": run / name}

    def peer(trainer, dtype, experts, steps, seconds=0.0, save=""):
        settings = {"trainer": trainer, "dtype": dtype, "experts": experts, "steps": steps, "seconds": seconds, "save": str(save), "most_steps": most if save else steps,
                    "batch": a.batch, "rate": a.rate, "threads": a.threads, "windows": str(run / "peers" / "windows.npy"), "student": str(start), "teacher": str(hf),
                    "tokenizer": str(hf), "work": str(run / "peers" / "work"), "distillkit": str(a.distillkit.resolve()) if a.distillkit else ""}
        environment = os.environ | {"PYTHONPATH": str(a.peers.resolve()), "OMP_NUM_THREADS": str(a.threads)}
        done = subprocess.run([sys.executable, ROOT / "benchmarks" / "distillation_peer.py", json.dumps(settings)], capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{trainer} ({dtype}, {experts}) failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def kl_of(name, model):
        rows = overproof("evaluate", "--teacher", teacher, "--corpus", corpus, "--models", f"student={model}", "--tokens", a.held_out, "--prompts", 0, "--compute", "f32",
                         "--force", "--out", run / "measured" / name)["metrics"]["models"]
        return next(row["kl_mean"] for row in rows if row["name"] == "student")

    processor = load_module(ROOT / "benchmarks" / "training.py").instruction_sets()
    print(f"{processor[0]}, {a.threads} threads, {' '.join(processor[1])}; load {os.getloadavg()[0]:.1f}")
    tokens = a.batch * LENGTH
    print(f"{a.steps} steps of {a.batch} x {LENGTH} tokens, rate {a.rate}, every weight trained; student before: KL {kl_of('start', start):.4f} on {a.held_out} held-out tokens", flush=True)
    print(f"{'':<34} {'tokens/s':>8} {'GiB':>5} {'KL, equal tokens':>16} {'KL, equal time':>14}  steps in that time")

    def line(label, rate, peak, kl, kl_time, steps):
        print(f"{label:<34} {rate:8.0f} {peak:5.1f} {kl:16.4f} {'' if kl_time is None else f'{kl_time:.4f}':>14}  {steps}".rstrip(), flush=True)

    first_loss = ours("first-steps", "--teacher", teacher, "--teacher-share", 1, "--compute", "f32", steps=2)["first_loss"]  # bf16 products differ by more than peers do
    live = ours("alongside", "--teacher", teacher, "--teacher-share", 1)
    kl = kl_of("alongside", live["model"])
    line(f"overproof, {live['compute']}", tokens / live["seconds_a_step"], live["peak_gib"], kl, kl, a.steps)
    stored = ours("stored")
    kl_stored = kl_of("stored", stored["model"])
    line(f"overproof, {stored['compute']}, stored targets", tokens / stored["seconds_a_step"], stored["peak_gib"], kl_stored, None, "")

    def compare(trainer, label, candidates):
        tried = {}
        for dtype, experts in candidates:
            tried[dtype, experts] = peer(trainer, dtype, experts, a.probe_steps + 1)
        best = min(tried, key=lambda c: tried[c]["seconds_a_step"])
        for one, result in tried.items():
            print(f"    {label} {' '.join(one):<22} {tokens / result['seconds_a_step']:6.0f} tokens/s {result['peak_gib']:5.1f} GiB  first loss {result['first_loss']:.4f}", flush=True)
        exact = [c for c in tried if c[0] == "f32"]
        for one in exact:
            if abs(tried[one]["first_loss"] - first_loss) > 0.01 * first_loss:
                sys.exit(f"the losses of the first step differ: {tried[one]['first_loss']} by {label}, {first_loss} here")
        result = peer(trainer, *best, a.steps, live["seconds"], run / "peers" / trainer)
        saved = result["saved"]
        kls = [kl_of(f"{trainer}-{name}", saved[name]["path"]) for name in ("tokens", "time")]
        line(f"{label}, {' '.join(best)}", tokens / result["seconds_a_step"], result["peak_gib"], *kls, saved["time"]["step"])
        for name in saved.values():
            shutil.rmtree(name["path"], ignore_errors=True)
        return tried

    dtypes, experts = a.dtypes.split(","), a.experts.split(",")
    likely = "autocast" if live["compute"] == "bf16" and "autocast" in dtypes else dtypes[0]
    tried = compare("trl", "TRL", [(likely, e) for e in experts] + [(d, experts[0]) for d in dtypes if d != likely])
    order = sorted(tried, key=lambda c: tried[c]["seconds_a_step"])
    fastest = list(dict.fromkeys([*order[:2], next(c for c in order if c[0] == "f32")]))
    if a.distillkit:
        compare("distillkit", "DistillKit", fastest)
    else:
        print("DistillKit: left out; give a checkout by --distillkit")


if __name__ == "__main__":
    main()
