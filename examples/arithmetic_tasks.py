#!/usr/bin/env python3
"""Writes tasks of small arithmetic, for examples/verified-math.ini: examples/arithmetic_tasks.py FOLDER [--train N] [--held-out N] [--seed S]

FOLDER/train.jsonl and FOLDER/held-out.jsonl have different problems: no sum or difference is in both, nor the same sum in another order. Problems for
training come with two examples, which the teacher reads and the student does not.
"""
import argparse
import json
import random
from pathlib import Path

EXAMPLES = [("What is 2 + 7?", "2 + 7 = 9"), ("What is 9 - 4?", "9 - 4 = 5")]


def problems():
    for a in range(1, 13):
        for b in range(a, 13):
            yield a, b, "+", a + b
    for a in range(2, 21):
        for b in range(1, min(a, 11)):
            yield a, b, "-", a - b


def task(problem, rng, examples):
    a, b, sign, answer = problem
    name = f"{a}{sign}{b}"
    if sign == "+" and rng.random() < 0.5:
        a, b = b, a
    out = {"name": name, "prompt": f"What is {a} {sign} {b}?", "answer": str(answer)}
    if examples:
        out["examples"] = [{"role": role, "content": text} for pair in EXAMPLES for role, text in zip(("user", "assistant"), pair)]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    everything = [p for p in problems() if p[:3] not in ((2, 7, "+"), (9, 4, "-"))]
    if options.train + options.held_out > len(everything):
        parser.error(f"there are {len(everything)} problems")
    rng.shuffle(everything)
    options.folder.mkdir(parents=True, exist_ok=True)
    train, held_out = everything[: options.train], everything[options.train : options.train + options.held_out]
    for name, chosen in (("train", train), ("held-out", held_out)):
        lines = [json.dumps(task(problem, rng, name == "train")) for problem in chosen]
        (options.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
