"""Golden values of evidence/distributions, by scipy and mpmath: log tails, Spearman with ties, full counts of pairings.

Usage: python3 generate.py > statistics.json (needs scipy and mpmath). All of it deterministic.
"""
import itertools
import json
import math

import mpmath
import numpy
from scipy import special, stats


def tails():
    rows = []
    for z in (-8.0, -1.5, 0.0, 0.3, 1.96, 6.0, 9.99, 10.01, 25.0, 37.0):
        rows.append(["normal", [z], float(stats.norm.logsf(z))])
    for t, df in ((-2.0, 5.0), (0.0, 3.0), (0.5, 10.0), (3.0, 2.5), (8.0, 30.0), (20.0, 100.0), (36.0, 5000.0), (0.01, 1e5)):
        rows.append(["t", [t, df], float(math.log(stats.t.sf(t, df)))])
    for x, df in ((0.1, 2.0), (3.0, 8.0), (60.0, 8.0), (200.0, 180.0), (1300.0, 30.0), (900.0, 400.0), (1e-9, 4.0)):
        rows.append(["chi2", [x, df], float(stats.chi2.logsf(x, df)) if stats.chi2.sf(x, df) < 1e-10 else float(math.log(stats.chi2.sf(x, df)))])
    for k, n, p in ((1, 1, 0.25), (5, 10, 0.5), (10, 10, 0.25), (300, 1000, 0.25), (400, 1000, 0.25), (900, 1000, 0.5), (26000, 100000, 0.25), (0, 5, 0.5), (57, 200, 0.3)):
        rows.append(["binomial", [k, n, p], float(math.log(stats.binom.sf(k - 1, n, p)))])
    for a, b, x in ((0.5, 0.5, 0.3), (10.0, 2.0, 0.05), (300.0, 0.5, 0.2), (2000.0, 0.5, 0.9), (3.0, 800.0, 0.6)):
        value = special.betainc(a, b, x)
        rows.append(["beta", [a, b, x], float(math.log(value))])
    mpmath.mp.dps = 40  # far below what any double holds
    for z in (200.0, 3000.0):
        rows.append(["normal", [z], float(mpmath.log(mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)) / 2))])
    for x, df in ((30000.0, 12.0), (2e5, 600.0)):
        rows.append(["chi2", [x, df], float(mpmath.log(mpmath.gammainc(mpmath.mpf(df) / 2, mpmath.mpf(x) / 2, regularized=True)))])
    for a, b, x in ((5000.0, 2.5, 0.03), (40.0, 3e4, 1e-130)):
        rows.append(["beta", [a, b, x], float(mpmath.log(mpmath.betainc(a, b, 0, x, regularized=True)))])
    return rows


def fisher_and_holm():
    generator = numpy.random.default_rng(5)
    cases = []
    for size in (1, 3, 12, 60):
        p = generator.uniform(0, 0.4, size)
        order = numpy.argsort(p)
        adjusted, most = numpy.empty(size), 0.0
        for i, j in enumerate(order):  # Holm 1979, as written there
            most = max(most, min(1.0, (size - i) * p[j]))
            adjusted[j] = most
        cases.append({"p": p.tolist(), "fisher": float(stats.combine_pvalues(p, "fisher").pvalue), "holm": adjusted.tolist()})
    return cases


def spearman():
    generator = numpy.random.default_rng(6)
    cases = []
    for n, levels in ((3, None), (5, None), (7, None), (8, 3), (40, None), (40, 5), (500, None)):
        x = generator.permutation(n).astype(float)
        y = x + generator.normal(0, n / 3, n)
        if levels:
            y = numpy.floor(y * levels / n)
        case = {"x": x.tolist(), "y": y.tolist(), "rho": float(stats.spearmanr(x, y).statistic), "ranks": stats.rankdata(y).tolist()}
        if n <= 8:  # every pairing, one by one
            rx, ry = stats.rankdata(x), stats.rankdata(y)
            observed = float(rx @ ry)
            sums = [float(numpy.dot(rx, numpy.array(order))) for order in itertools.permutations(ry)]
            case["p"] = sum(s >= observed - 1e-9 for s in sums) / len(sums)
            mean = sum(rx) * sum(ry) / n
            scale = (n - 1) * rx.std(ddof=1) * ry.std(ddof=1)
            r = (numpy.array(sums) - mean) / scale
            case["variance"], case["excess"] = float((r**2).mean()), float((r**4).mean() / (r**2).mean() ** 2 - 3)
        cases.append(case)
    return cases


def twelve():
    """The upper tail of Spearman's rho for n = 12 without ties: P(sum of products >= s), by a recursion over subsets in whole numbers."""
    n = 12
    ways = {0: {0: 1}}
    for place in range(1, n + 1):
        following = {}
        for taken, sums in ways.items():
            for j in range(n):
                if taken >> j & 1:
                    continue
                target = following.setdefault(taken | 1 << j, {})
                for s, count in sums.items():
                    target[s + place * (j + 1)] = target.get(s + place * (j + 1), 0) + count
        ways = following
    (sums,) = ways.values()
    mean, half = n * ((n + 1) / 2) ** 2, n * (n * n - 1) / 12
    tail, rows = 0, []
    for s in sorted(sums, reverse=True):
        tail += sums[s]
        rows.append([(s - mean) / half, math.log(tail / math.factorial(n))])
    return [row for row in rows if row[0] > 0]


def main():
    generator = numpy.random.default_rng(7)
    values = generator.uniform(0, 1, 200)
    print(json.dumps({"tails": tails(), "combined": fisher_and_holm(), "spearman": spearman(), "twelve": twelve(),
                      "uniform": {"values": values.tolist(), "distance": float(stats.kstest(values, "uniform").statistic),
                                  "p": float(stats.kstest(values, "uniform", method="asymp").pvalue)}}))


main()
