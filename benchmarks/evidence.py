#!/usr/bin/env python3
"""Error rates and power of `audit compare`, on models trained here.

    benchmarks/evidence.py BUILD [--runs 1000] [--models 48] [--part null|power|radioactivity|all] [--json]

Null: models of 0.1 million parameters, each trained from its own initial weights, compared with unrelated keys, controls and
models (bench_evidence; BUILD needs -DOVERPROOF_BENCHMARKS=ON). Power: a student is distilled and then quantized, pruned and calibrated;
each of its descendants and an unrelated model are compared with the run. Radioactivity: students of sampled text, with and without the
watermark. All models are made from seeds by the program's stages. Takes about ten minutes on one core.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

SHAPE = ["--layers", 2, "--hidden-size", 64, "--intermediate-size", 128]


def write_texts(folder, total, seed):
    """Documents of invented words with a skewed frequency, so that models can both generalise and memorise."""
    generator = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(generator.choice(syllables) for _ in range(generator.randint(1, 4))) for _ in range(2000)]
    weights = [1 / (i + 3) for i in range(len(words))]
    folder.mkdir(parents=True)
    records, written, number = [], 0, 0
    while written < total:
        lines = []
        for _ in range(generator.randint(20, 60)):
            line = " ".join(generator.choices(words, weights, k=generator.randint(4, 12)))
            lines.append(line[0].upper() + line[1:] + ".")
        text = "\n".join(lines) + "\n"
        name = f"{number:05}.txt"
        (folder / name).write_text(text)
        records.append({"name": name, "license": "CC0-1.0", "source": "made-up"})
        written += len(text)
        number += 1
    (folder / "documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


class Bench:
    def __init__(self, build, work):
        self.build, self.work = build, work
        self.env = {**os.environ, "OVERPROOF_KEY": str(work / "key.pem"), "GOMP_SPINCOUNT": "0"}

    def overproof(self, *words):
        done = subprocess.run([self.build / "bin" / "overproof", *map(str, words), "--json", "--quiet"], capture_output=True, text=True, env=self.env)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, words))}\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def base(self):
        """A teacher, a corpus and its soft targets."""
        run = self.work / "run"
        if (run / "soft-targets").exists():
            return run
        write_texts(self.work / "texts", 300_000, 1)
        self.overproof("tiny-teacher", "--seed", 1, *SHAPE, "--out", run / "teacher")
        self.overproof("corpus", "--source", self.work / "texts", "--tokenizer", run / "teacher", "--window-length", 32, "--held-out", 0.15,
                       "--out", run / "corpus")
        self.overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 131072, "--out", run / "soft-targets")
        return run

    def distill(self, student, targets, corpus, out, *more):
        self.overproof("distill", "--student", student, "--targets", targets, "--corpus", corpus, "--out", out, "--train", "all",
                       "--learning-rate", 0.003, "--batch-size", 4, "--micro-batch", 4, "--checkpoint-every", 0, *more)

    def null(self, models, runs):
        run = self.base()
        folder = self.work / "null"
        folder.mkdir(exist_ok=True)
        for seed in range(4):
            self.overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 16384, "--seed", seed + 50,
                           "--out", self.work / f"targets-{seed}")
        for i in range(models):
            if (folder / f"{i:03}").exists():
                continue
            self.overproof("tiny-teacher", "--seed", 100 + i, *SHAPE, "--out", self.work / "initial", "--force")
            self.distill(self.work / "initial", self.work / f"targets-{i % 4}", run / "corpus", folder / f"{i:03}", "--steps", 60)
        scratch = self.work / "scratch"
        scratch.mkdir(exist_ok=True)
        done = subprocess.run([self.build / "bin" / "bench_evidence", "--models", folder, "--teacher", run / "teacher", "--corpus", run / "corpus",
                               "--scratch", scratch, "--runs", str(runs)], capture_output=True, text=True, env=self.env)
        if done.returncode:
            sys.exit(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def compare(self, a, b, *more):
        found = self.overproof("audit", "compare", a, b, "--windows", 100000, "--draws", 20000, *more)
        row = {"b": b.name}
        for test in found["tests"]:
            if test["ran"]:
                row[test["name"]] = round(test["log10_p"], 2)
                row[test["name"] + " value"] = round(test["value"], 4)
        return row

    def power(self):
        run = self.base()
        rows = []
        # A mixture of experts, carved from the teacher, distilled, calibrated, in int8.
        self.overproof("observe", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 1024, "--out", run / "statistics")
        self.overproof("carve", "--teacher", run / "teacher", "--statistics", run / "statistics", "--experts", 7, "--shared", 1, "--top-k", 1,
                       "--out", run / "student-init")
        constant = ["--schedule", "constant"]
        self.distill(run / "student-init", run / "soft-targets", run / "corpus", run / "student", *constant)
        self.overproof("calibrate", "--student", run / "student", "--teacher", run / "teacher", "--corpus", run / "corpus", "--target-activation", 0.25,
                       "--steps", 4, "--out", run / "calibrated")
        self.overproof("quantize", "--model", run / "calibrated", "--out", run / "int8")
        # A dense student from independent initial weights, and the same pruned.
        dense = self.work / "dense"
        for name in ("teacher", "corpus", "soft-targets"):
            shutil.copytree(run / name, dense / name)
        self.overproof("tiny-teacher", "--seed", 2, *SHAPE, "--out", dense / "student-init")
        self.distill(dense / "student-init", dense / "soft-targets", dense / "corpus", dense / "student", *constant)
        self.overproof("observe", "--teacher", dense / "student", "--corpus", dense / "corpus", "--tokens", 1024, "--out", dense / "statistics")
        self.overproof("prune-neurons", "--teacher", dense / "student", "--statistics", dense / "statistics", "--keep", 0.75, "--out", dense / "pruned")
        self.overproof("quantize", "--model", dense / "student", "--out", dense / "int8")
        # Unrelated models: the same data and teacher in another order, and controls with other initial weights and teachers.
        other = self.work / "other"
        self.overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 131072, "--seed", 9, "--out", other / "soft-targets")
        self.overproof("tiny-teacher", "--seed", 3, *SHAPE, "--out", other / "student-init")
        self.distill(other / "student-init", other / "soft-targets", run / "corpus", other / "stranger", *constant)
        controls = []
        for seed in range(20, 24):
            self.overproof("tiny-teacher", "--seed", seed, *SHAPE, "--out", other / f"teacher-{seed}")
            self.overproof("teach", "--teacher", other / f"teacher-{seed}", "--corpus", run / "corpus", "--tokens", 32768, "--out", other / f"targets-{seed}")
            self.overproof("tiny-teacher", "--seed", seed + 10, *SHAPE, "--out", other / f"init-{seed}")
            self.distill(other / f"init-{seed}", other / f"targets-{seed}", run / "corpus", other / f"control-{seed}")
            controls.append(str(other / f"control-{seed}"))
        many = ["--controls", ",".join(controls)]
        for b in (run / "student", run / "calibrated", run / "int8", other / "stranger"):
            rows.append({"a": "run of a carved mixture", **self.compare(run, b, *many)})
        for b in (dense / "student", dense / "pruned", dense / "int8", other / "stranger"):
            rows.append({"a": "run of a dense student", **self.compare(dense, b, *many)})
        for b in (run / "student", run / "int8", dense / "student", dense / "pruned", other / "stranger"):
            rows.append({"a": "the teacher alone", **self.compare(run / "teacher", b, *many)})
        return rows

    def radioactivity(self):
        """Students trained on sampled documents only (hard labels), with and without the watermark."""
        run, rows, work = self.base(), [], self.work / "sampled"
        key = work / "key.json"
        self.overproof("watermark-key", "--out", key, "--context", 1)
        for name, mark in (("marked", ["--watermark-key", key, "--watermark-strength", 2]), ("plain", [])):
            self.overproof("sample", "--teacher", run / "teacher", "--count", 400, "--max-tokens", 256, "--seed", 3, *mark, "--out", work / f"{name}-texts")
            self.overproof("corpus", "--source", work / f"{name}-texts", "--tokenizer", run / "teacher", "--window-length", 32, "--held-out", 0.1,
                           "--out", work / name / "corpus")
            self.overproof("teach", "--teacher", run / "teacher", "--corpus", work / name / "corpus", "--tokens", 65536, "--draws", 1,
                           "--out", work / name / "soft-targets")
            self.overproof("tiny-teacher", "--seed", 4, *SHAPE, "--out", work / name / "student-init")
            self.distill(work / name / "student-init", work / name / "soft-targets", work / name / "corpus", work / name / "student",
                         "--ce-weight", 1, "--steps", 1500)
            self.overproof("quantize", "--model", work / name / "student", "--out", work / name / "int8")
        for name, b in (("marked", "student"), ("marked", "int8"), ("plain", "student")):
            for text in (["--watermark-text", work / "marked-texts"], ["--corpus", run / "corpus"]):
                found = self.compare(run / "teacher", work / name / b, "--only", "radioactivity", "--watermark-key", key, *text)
                rows.append({"a": f"{name} samples, shown {'them' if 'text' in text[0] else 'other text'}", **found})
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--models", type=int, default=48)
    parser.add_argument("--part", choices=["null", "power", "radioactivity", "all"], default="all")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-evidence-"))
    bench = Bench(a.build.resolve(), work)
    try:
        for part in ("null", "power", "radioactivity"):
            if a.part not in (part, "all"):
                continue
            rows = bench.null(a.models, a.runs) if part == "null" else bench.power() if part == "power" else bench.radioactivity()
            for row in rows:
                if a.json:
                    print(json.dumps(row), flush=True)
                elif part == "null":
                    print(f"{row['test']:56} {row['runs']:5} runs  <=5%: {row['at_0.05']:.3f}  <=1%: {row['at_0.01']:.4f}  "
                          f"<=0.1%: {row['at_0.001']:.4f}  KS p {row['ks_p']:.3g}", flush=True)
                else:
                    print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
