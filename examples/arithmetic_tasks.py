#!/usr/bin/env python3
"""Writes tasks of small arithmetic, for examples/verified-math.ini: examples/arithmetic_tasks.py FOLDER [--train N] [--held-out N] [--seed S]

FOLDER/train.jsonl and FOLDER/held-out.jsonl have different problems: no two have the same numbers and operation, not even in another order.
One object a line: {"name", "prompt", "answer"}, judged by exact mathematics.
"""
import argparse
import json
import random
from pathlib import Path


def problems():
    for a in range(1, 21):
        for b in range(a, 21):
            yield f"{a}+{b}", (a, b), "+", a + b
    for a in range(2, 31):
        for b in range(1, min(a, 21)):
            yield f"{a}-{b}", (a, b), "-", a - b


def prompt(numbers, sign, rng):
    a, b = numbers
    if sign == "+" and rng.random() < 0.5:
        a, b = b, a
    return rng.choice([f"What is {a} {sign} {b}?", f"Calculate {a} {sign} {b}.", f"{a} {sign} {b} = ?"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    everything = list(problems())
    if options.train + options.held_out > len(everything):
        parser.error(f"there are {len(everything)} problems")
    rng.shuffle(everything)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train", everything[: options.train]), ("held-out", everything[options.train : options.train + options.held_out])):
        lines = [json.dumps({"name": word, "prompt": prompt(numbers, sign, rng), "answer": str(answer)}) for word, numbers, sign, answer in chosen]
        (options.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
