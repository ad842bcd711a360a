"""Writes intervals.json: Wilson's 95 % intervals of binomial shares, by scipy. None of overproof's code is used.

Usage: python3 generate.py > intervals.json
"""
import json

from scipy.stats import binomtest

PAIRS = [(0, 1), (1, 1), (1, 2), (0, 10), (3, 10), (10, 10), (7, 20), (19, 20), (0, 100), (1, 100), (50, 100), (99, 100), (100, 100), (42, 200), (90, 200),
         (123, 457), (1, 1000), (500, 1000), (999, 1000), (12345, 100000), (5, 7), (2, 3)]
rows = []
for successes, trials in PAIRS:
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    rows.append({"successes": successes, "trials": trials, "low": float(interval.low), "high": float(interval.high)})
print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
