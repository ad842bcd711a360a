"""Golden values of evidence/weight_tests, by numpy and scipy. Usage: python3 generate.py > weights.json (needs scipy)."""
import collections
import itertools
import json

import numpy
from scipy import optimize, stats

HIDDEN, LAYERS, EXPERTS = 6, 2, 2


def spearman(x, y):
    """Correlation of the ranks, and the share of all pairings whose correlation is at least as large."""
    rx, ry = stats.rankdata(x), stats.rankdata(y)
    sums = [float(rx @ numpy.array(order)) for order in itertools.permutations(ry)]
    return float(numpy.corrcoef(rx, ry)[0, 1]), sum(s >= rx @ ry - 1e-9 for s in sums) / len(sums)


def cosines(x, y):
    return (x / numpy.linalg.norm(x, axis=1, keepdims=True)) @ (y / numpy.linalg.norm(y, axis=1, keepdims=True)).T


def case(a, b):
    order_p, match_p, ordered, order_rho, match_rho, nearest = [], [], 0, 0.0, 0.0, [0, 0]
    reverse = list(range(HIDDEN))[::-1]
    for (gate_a, up_a, expert_a), (gate_b, up_b, expert_b) in zip(a, b):
        gate, up = cosines(gate_a, gate_b), cosines(up_a, up_b)
        both, by_gate, by_up = (optimize.linear_sum_assignment(s, maximize=True)[1] for s in (gate + up, gate, up))
        strata = collections.defaultdict(list)
        for i, j in enumerate(both):
            strata[expert_a[i], expert_b[j]].append((i, j))
        for pairs in strata.values():
            if len(pairs) >= 3:
                rho, p = spearman(*zip(*pairs))
                order_p.append(p)
                ordered += len(pairs)
                order_rho += rho * len(pairs)
        rho, p = spearman(by_gate, by_up)
        match_p.append(p)
        match_rho += rho * len(both)
        for k, coordinates in enumerate((list(range(HIDDEN)), reverse)):
            nearest[k] += int((cosines(gate_a[:, coordinates], gate_b).argmax(1) == cosines(up_a[:, coordinates], up_b).argmax(1)).sum())
    side = lambda model: [{"gate": g.astype(int).tolist(), "up": u.astype(int).tolist(), "expert": e.tolist()} for g, u, e in model]
    neurons = sum(len(e) for _, _, e in a)
    return {"a": side(a), "b": side(b), "order_value": order_rho / ordered, "order_p": float(stats.combine_pvalues(order_p, "fisher").pvalue), "ordered": ordered,
            "matched_value": match_rho / neurons, "matched_p": float(stats.combine_pvalues(match_p, "fisher").pvalue), "nearest": nearest[0], "nearest_reversed": nearest[1]}


def main():
    generator = numpy.random.default_rng(11)
    draw = lambda n: numpy.rint(generator.normal(0, 300, (n, HIDDEN)))
    dense = [(draw(8), draw(8), numpy.zeros(8, int)) for _ in range(LAYERS)]
    experts = numpy.repeat(numpy.arange(EXPERTS), 5)
    stranger = [(draw(10), draw(10), experts) for _ in range(LAYERS)]
    carved = []
    for gate, up, _ in dense:  # even neurons to the first expert, odd ones to the second, each with one neuron of its own at the end
        places = [0, 2, 4, 6, None, 1, 3, 5, 7, None]
        pick = lambda rows: numpy.array([numpy.rint(rows[p] + generator.normal(0, 30, HIDDEN)) if p is not None else draw(1)[0] for p in places])
        carved.append((pick(gate), pick(up), experts))
    print(json.dumps({"carved": case(dense, carved), "stranger": case(dense, stranger)}))


main()
