#!/usr/bin/env python3
"""Losses x formats of targets x bytes a token: what a student learns of the same tokens, as the table of docs/distill.md.

    benchmarks/target_quality.py build/release runs/target-quality

Makes the student of benchmarks/half.ini (once), the soft targets of each format, and one training for each row: the same student, windows, order, steps and rate.
Each student is measured on held-out windows of the corpus. Bytes a token are those of targets.safetensors. What is finished in the run folder is
kept, so a stopped run continues; results.json holds the measurements. Rows of another seed differ in the order of windows and in the samples.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FORMATS = {  # name: (words of `teach`, name in the table)
    "sample26": (["--mode", "sample", "--draws", "26"], "26 draws"),
    "sample50": (["--mode", "sample", "--draws", "50"], "50 draws"),
    "top8": (["--mode", "top-k", "--k", "8"], "top 8 and tail"),
    "top32": (["--mode", "top-k", "--k", "32"], "top 32 and tail"),
    "top128": (["--mode", "top-k", "--k", "128"], "top 128 and tail"),
    "full": (None, "all ids, teacher alongside"),
}
DIVERGENCES = ["forward-kl", "reverse-kl", "jensen-shannon", "skewed-reverse-kl", "total-variation"]
# What matters most comes first, so that a run that is stopped has it.
PLAN = [(f, "forward-kl", 0) for f in FORMATS] + [("top32", loss, 0) for loss in DIVERGENCES[1:]]
PLAN += [("sample26", "forward-kl", 1), ("sample26", "cross-entropy", 0), ("full", "forward-kl", 1)]
PLAN += [("full", loss, 0) for loss in DIVERGENCES[1:]] + [("sample26", "forward-kl", 2), ("full", "forward-kl", 2)]
PLAN += [(f, loss, 0) for f in ("top8", "top128") for loss in DIVERGENCES[1:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--windows", type=int, default=48, help="of 256 tokens, each seen once (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="windows a step")
    parser.add_argument("--rate", default="1e-4", help="largest learning rate, linear to zero (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=4096, help="tokens that are measured (default: %(default)s)")
    fast_bf16 = re.search(r"\b(avx512_bf16|amx_bf16)\b", pathlib.Path("/proc/cpuinfo").read_text())
    parser.add_argument("--compute", choices=["f32", "bf16"], default="bf16" if fast_bf16 else "f32", help="number type of products (default here: %(default)s)")
    parser.add_argument("--threads", default=str(len(os.sched_getaffinity(0))))
    parser.add_argument("--set", action="append", default=[], help="of benchmarks/half.ini: section.key=value")
    parser.add_argument("--rows", type=int, default=len(PLAN), help="only the first rows of the plan")
    parser.add_argument("--print", action="store_true", help="only print what results.json has")
    a = parser.parse_args()
    a.run.mkdir(parents=True, exist_ok=True)
    results_file = a.run / "results.json"
    sizes = {"windows": a.windows, "batch": a.batch, "rate": a.rate, "held_out": a.held_out, "compute": a.compute, "set": a.set}
    results = json.loads(results_file.read_text()) if results_file.exists() else {"sizes": sizes, "rows": {}}
    if results["sizes"] != sizes and not a.print:
        sys.exit(f"{results_file} is of other sizes, {results['sizes']}; take another folder")
    if a.print:
        return table(results)

    key = ["--key", a.run / "key.pem", "--threads", a.threads]

    def overproof(*words):
        done = subprocess.run([str(w) for w in (a.build / "bin" / "overproof", *words, *key, "--json")], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            sys.exit(f"overproof {words[0]} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    a.run, a.build = a.run.resolve(), a.build.resolve()
    results_file = a.run / "results.json"
    key[1] = a.run / "key.pem"
    sets = [word for one in a.set for word in ("--set", one)]
    overproof("run", ROOT / "benchmarks" / "half.ini", "--out", a.run, *sets)
    corpus, teacher, start = a.run / "corpus", a.run / "teacher", a.run / "recovered"

    def measured(name, model):
        words = ["evaluate", "--teacher", teacher, "--corpus", corpus, "--models", f"student={model}", "--tokens", a.held_out, "--prompts", 0,
                 "--compute", a.compute, "--out", a.run / f"{name}-measured"]
        rows = overproof(*words)["metrics"]["models"]
        return next({"kl": row["kl_mean"], "top1": row["top1_agreement"]} for row in rows if row["name"] == "student")

    def keep(name, row):
        results["rows"][name] = row
        temporary = results_file.with_suffix(".new")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        temporary.replace(results_file)
        print(f"{name}: KL {row['kl']:.4f}, agreement {100 * row['top1']:.1f} %", file=sys.stderr, flush=True)

    if "start" not in results["rows"]:
        keep("start", {"format": "", "loss": "", "seed": 0, "bytes": None, **measured("start", start)})
    for form, loss, seed in PLAN[: a.rows]:
        name = f"{form}-{loss}-{seed}"
        if name in results["rows"]:
            continue
        words, _ = FORMATS["sample26" if form == "full" else form]  # a teacher alongside takes the order of windows from any targets
        targets = a.run / f"targets-{'sample26' if form == 'full' else form}-{seed}"
        overproof("teach", "--teacher", teacher, "--corpus", corpus, "--tokens", 256 * a.windows, "--seed", seed, *words, "--compute", a.compute, "--out", targets)
        size = None if form == "full" else (targets / "targets.safetensors").stat().st_size / (256 * a.windows)
        live = ["--teacher", teacher, "--teacher-share", 1] if form == "full" else []
        overproof("distill", "--student", start, "--targets", targets, "--corpus", corpus, *live, "--loss", f"{loss}=1", "--batch-size", a.batch,
                  "--micro-batch", 1, "--learning-rate", a.rate, "--schedule", "linear", "--warmup", max(1, a.windows // a.batch // 4), "--digest-every", 0,
                  "--checkpoint-every", 0, "--compute", a.compute, "--out", a.run / name)
        row = {"format": form, "loss": loss, "seed": seed, "bytes": size, **measured(name, a.run / name)}
        for file in (a.run / name).glob("*.safetensors"):  # hundreds of megabytes; only the numbers are kept
            file.unlink()
        keep(name, row)
    table(results)


def table(results):
    rows = results["rows"]
    sizes = results["sizes"]
    print(f"{256 * sizes['windows']} tokens, {sizes['windows'] // sizes['batch']} steps, rate {sizes['rate']}, products in {sizes['compute']}, {sizes['held_out']} held-out tokens")
    if "start" in rows:
        print(f"student before: KL {rows['start']['kl']:.4f}, agreement {100 * rows['start']['top1']:.1f} %")
    losses = [loss for loss in DIVERGENCES + ["cross-entropy"] if any(r["loss"] == loss for r in rows.values())]
    print("\n| targets | bytes a token | " + " | ".join(f"`{loss}`" for loss in losses) + " |")
    print("|---|---|" + "---|" * len(losses))
    for form, (_, text) in FORMATS.items():
        cells = []
        for loss in losses:
            row = rows.get(f"{form}-{loss}-0")
            cells.append(f"{row['kl']:.4f}, {100 * row['top1']:.1f} %" if row else "")
        size = next((r["bytes"] for r in rows.values() if r["format"] == form and r["bytes"]), None)
        if any(cells):
            print(f"| {text} | {f'{size:.0f}' if size else 'none'} | " + " | ".join(cells) + " |")
    print()
    for form, (_, text) in FORMATS.items():
        kls = [r["kl"] for r in rows.values() if r["format"] == form and r["loss"] == "forward-kl"]
        if len(kls) > 1:
            print(f"{text}, `forward-kl`, {len(kls)} seeds: KL " + ", ".join(f"{kl:.4f}" for kl in kls) + f"; standard deviation {statistics.stdev(kls):.4f}")


main()
