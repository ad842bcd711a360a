"""Linear assignments by scipy.optimize.linear_sum_assignment. Usage: python3 generate.py > assignment.json (needs scipy)."""
import json

import numpy
from scipy.optimize import linear_sum_assignment


def main():
    generator = numpy.random.default_rng(11)
    cases = []
    for rows, columns, kind in ((1, 1, "normal"), (5, 5, "normal"), (7, 12, "normal"), (40, 40, "normal"), (40, 40, "near"), (30, 64, "near"), (60, 60, "flat")):
        s = generator.normal(0, 1, (rows, columns))
        if kind == "near":  # almost a permutation
            s = 0.1 * s
            s[numpy.arange(rows), generator.permutation(columns)[:rows]] += 0.4
        if kind == "flat":  # many rows want the same columns
            s = 0.01 * s + generator.normal(0, 1, columns)
        s = s.astype(numpy.float32)
        i, j = linear_sum_assignment(s.astype(float), maximize=True)
        cases.append({"rows": rows, "columns": columns, "similarity": [float(x) for x in s.ravel()], "column_of": j.tolist()})
    print(json.dumps(cases))


main()
