"""Writes ratings.json: Bradley-Terry ratings of battles by scikit-learn's logistic regression, as Chatbot Arena's notebook computes them, and bootstrap
intervals by numpy. None of overproof's code is used.

Usage: python3 generate.py > ratings.json
"""
import json
import math

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

SCALE, BASE, MEAN, DRAWS = 400, 10, 1000, 4000


def ratings(battles, models, weights=None):
    """battles: rows of (a, b, score). Each tie is half a win of each."""
    rows, won, weight = [], [], []
    for i, (a, b, score) in enumerate(battles):
        times = 1.0 if weights is None else weights[i]
        for first, second, share in ((a, b, score), (b, a, 1 - score)):
            if share * times == 0:
                continue
            # Both classes are needed, so every win is also the other model's loss.
            for x, y, outcome in ((first, second, 1), (second, first, 0)):
                row = np.zeros(models)
                row[x], row[y] = math.log(BASE), -math.log(BASE)
                rows.append(row)
                won.append(outcome)
                weight.append(share * times / 2)
    fit = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10, max_iter=10000)
    fit.fit(np.array(rows), np.array(won), sample_weight=np.array(weight))
    values = SCALE * fit.coef_[0]
    return values - values.mean() + MEAN


def reachable(battles, models, weights=None):
    """Whether the maximum is finite (Ford 1957)."""
    wins = np.zeros((models, models))
    for i, (a, b, score) in enumerate(battles):
        times = 1.0 if weights is None else weights[i]
        wins[a, b] += score * times
        wins[b, a] += (1 - score) * times
    paths = np.linalg.matrix_power((wins > 0).astype(int) + np.eye(models, dtype=int), models)
    return bool((paths > 0).all()), wins


def with_prior(battles, models, weights=None):
    """Half a tie is added to each pair that met where the maximum is not finite."""
    finite, wins = reachable(battles, models, weights)
    if finite:
        return ratings(battles, models, weights), False
    pairs = [(a, b, 0.5) for a in range(models) for b in range(a + 1, models) if wins[a, b] + wins[b, a] > 0]
    old = np.ones(len(battles)) if weights is None else np.asarray(weights, dtype=float)
    return ratings(list(battles) + pairs, models, np.concatenate([old, np.full(len(pairs), 0.5)])), True


def case(name, models, prompts, strengths, tie, seed):
    rng = np.random.default_rng(seed)
    battles = []
    for prompt in range(prompts):
        for a in range(models):
            for b in range(a + 1, models):
                p = 1 / (1 + 10 ** ((strengths[b] - strengths[a]) / SCALE))
                score = 0.5 if rng.random() < tie else float(rng.random() < p)
                battles.append([a, b, score, prompt])
    rows = [tuple(x[:3]) for x in battles]
    values, prior = with_prior(rows, models)
    draws = []
    for _ in range(DRAWS):
        times = np.bincount(rng.integers(0, prompts, prompts), minlength=prompts)
        weights = np.array([times[x[3]] for x in battles], dtype=float)
        kept = [i for i in range(len(rows)) if weights[i] > 0]
        draws.append(with_prior([rows[i] for i in kept], models, weights[kept])[0])
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
    return {"name": name, "models": models, "prompts": prompts, "battles": battles, "ratings": values.tolist(), "with_prior": prior, "low": low.tolist(), "high": high.tolist()}


cases = [case("two models", 2, 60, [1050, 950], 0.2, 1), case("five models", 5, 40, [1100, 1050, 1000, 950, 900], 0.3, 2),
         case("all ties", 3, 20, [1000, 1000, 1000], 1.0, 3)]
# One model wins all of its battles: the likelihood has no finite maximum.
lost = [[0, 1, 1.0, p] for p in range(10)] + [[0, 2, 1.0, p] for p in range(10)] + [[1, 2, float(p % 2), p] for p in range(10)]
values, prior = with_prior([tuple(x[:3]) for x in lost], 3)
cases.append({"name": "one wins all", "models": 3, "prompts": 10, "battles": lost, "ratings": values.tolist(), "with_prior": prior})
print(json.dumps({"scikit-learn": sklearn.__version__, "numpy": np.__version__, "draws": DRAWS, "cases": cases}))
