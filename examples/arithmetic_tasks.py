#!/usr/bin/env python3
"""Writes tasks of small arithmetic, for examples/verified-math.ini: examples/arithmetic_tasks.py FOLDER [--train N] [--held-out N] [--seed S]

FOLDER/train.jsonl and FOLDER/held-out.jsonl have different problems: no sum or difference is in both, nor the same sum in another order; a sum is asked in both
orders. Problems for training come with two examples, which the teacher reads and the student does not.
"""
import argparse
import json
import random
from pathlib import Path

EXAMPLES = [("What is 2 + 7?", "2 + 7 = 9"), ("What is 9 - 4?", "9 - 4 = 5")]


def problems():
    for a in range(1, 16):
        for b in range(a, 16):
            yield a, b, "+", a + b
    for a in range(2, 21):
        for b in range(1, min(a, 13)):
            yield a, b, "-", a - b


def tasks(problem, examples):
    a, b, sign, answer = problem
    orders = {(a, b), (b, a)} if sign == "+" else {(a, b)}
    for a, b in sorted(orders):
        out = {"name": f"{a}{sign}{b}", "prompt": f"What is {a} {sign} {b}?", "answer": str(answer)}
        if examples:
            out["examples"] = [{"role": role, "content": text} for pair in EXAMPLES for role, text in zip(("user", "assistant"), pair)]
        yield out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=170)
    parser.add_argument("--held-out", type=int, default=80)
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
        lines = [json.dumps(task) for problem in chosen for task in tasks(problem, name == "train")]
        (options.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
