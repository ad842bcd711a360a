"""Writes answers.jsonl: 300 pairs of an expected answer and a given one, each with the verdict of PyPI's math-verify. None of
overproof's code is used.

Usage: python3 generate.py > answers.jsonl       (needs math-verify==0.9.0, which brings latex2sympy2_extended 1.11.0 and sympy 1.14.0)

"math_verify": true or false: what verify() returns. null: it found nothing to compare in one of the two.
"""
import json
import sys

from math_verify import parse, verify

# kind: pairs, "expected | given"
TABLE = {
    "integers": r"""
5 | 5
5 | 6
5 | -5
-7 | -7
-7 | 7
0 | 0
0 | 1
12 | 012
42 | 42.0
42 | 42.5
100 | +100
1000 | 1,000
1,000 | 1000
1000000 | 1,000,000
12345 | 12,345
12345 | 12,346
7 | 3+4
7 | 3+5
2^{10} | 1024
1024 | 2^{10}
1024 | 2^9
120 | 5!
6 | 2 \cdot 3
6 | 2 \times 4
10^{6} | 1000000
1.5 \times 10^{3} | 1500
1500 | 1.5e3
8 | \sqrt{64}
9 | 3^2
-9 | -3^2
9 | (-3)^2
12 | 12.
""",
    "fractions": r"""
\frac{1}{2} | 1/2
\frac{1}{2} | \frac{2}{4}
\frac{1}{2} | \frac12
\frac{1}{2} | \dfrac{1}{2}
\frac{1}{2} | \tfrac{3}{6}
\frac{1}{2} | 0.5
\frac{1}{2} | .5
\frac{1}{2} | 0.25
\frac{1}{2} | 2
\frac{3}{4} | 0.75
\frac{3}{4} | \frac{4}{3}
-\frac{3}{4} | \frac{-3}{4}
-\frac{3}{4} | \frac{3}{-4}
-\frac{3}{4} | \frac{3}{4}
\frac{7}{3} | 2\frac{1}{3}
\frac{7}{3} | 7/3
\frac{7}{3} | \frac{7}{4}
\frac{10}{2} | 5
\frac{22}{7} | \pi
\frac{1}{3} | 0.333333
\frac{1}{3} | 0.33
\frac{1}{3} | 0.34
\frac{2}{3} | 0.666667
\frac{2}{3} | 0.6667
\frac{1}{7} | 0.142857
\frac{\frac{1}{2}}{3} | \frac{1}{6}
\frac{1}{\frac{1}{2}} | 2
\frac{1}{23} | \frac{12}{3}
\frac{100}{3} | 33.33
\frac{5}{8} | 0.625
\frac{5}{8} | 5 / 8
\frac{5}{8} | 5 \div 8
""",
    "decimals": r"""
0.5 | 0.5
0.5 | 0.50
0.5 | 0.500001
0.5 | 0.51
3.14 | 3.14
3.14 | 3.141
3.14 | \frac{157}{50}
2.718 | 2.718
-0.25 | -\frac{1}{4}
-0.25 | -.25
-0.25 | 0.25
1234.5 | 1,234.5
1234.5 | 1,234.6
0.001 | 10^{-3}
0.001 | 1e-3
0.1 | \frac{1}{10}
2.0 | 2
2.5 | 5/2
2.5 | 2 1/2
99.99 | 100
""",
    "percentages": r"""
50\% | 50\%
50\% | 0.5
50\% | 50
50\% | \frac{1}{2}
50\% | 60\%
50\% | 5
0.5 | 50\%
25\% | \frac{1}{4}
12.5\% | 12.5%
12.5\% | 0.125
33\% | 33 \%
100\% | 1
20\% | 0.02
""",
    "radicals": r"""
\sqrt{2} | \sqrt{2}
\sqrt{2} | \sqrt2
\sqrt{2} | \sqrt{3}
\sqrt{8} | 2\sqrt{2}
2\sqrt{2} | \sqrt{8}
\sqrt{12} | 2\sqrt{3}
\sqrt{12} | 3\sqrt{2}
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
\frac{\sqrt{3}}{3} | \sqrt{3}
\sqrt{2} | 2^{1/2}
\sqrt{2} | 2^{\frac{1}{2}}
\sqrt{2} | 1.414214
\sqrt{2} | 1.41
\sqrt[3]{8} | 2
\sqrt[3]{27} | 3
\sqrt{2}+\sqrt{3} | \sqrt{3}+\sqrt{2}
\sqrt{2}+\sqrt{3} | \sqrt{5}
1+\sqrt{5} | \sqrt{5}+1
\frac{1+\sqrt{5}}{2} | \frac{\sqrt{5}+1}{2}
\frac{1+\sqrt{5}}{2} | \frac{1-\sqrt{5}}{2}
\frac{1}{1+\sqrt{2}} | \sqrt{2}-1
\sqrt{2}\sqrt{3} | \sqrt{6}
\sqrt{\frac{1}{2}} | \frac{\sqrt{2}}{2}
(\sqrt{2})^2 | 2
(1+\sqrt{2})^2 | 3+2\sqrt{2}
5\sqrt{3} | \sqrt{75}
5\sqrt{3} | 5\sqrt{2}
10\sqrt{10} | \sqrt{1000}
-\sqrt{2} | \sqrt{2}
""",
    "pi": r"""
\pi | \pi
\pi | 3.14
\pi | 3.141593
2\pi | 2 \pi
2\pi | 2 \cdot \pi
2\pi | \pi
\frac{\pi}{2} | \pi/2
\frac{\pi}{2} | \frac{1}{2}\pi
\frac{\pi}{2} | 0.5\pi
\frac{\pi}{2} | \frac{\pi}{3}
\frac{\pi}{6} | 0.5235987756
36\pi | 36 \pi
36\pi | 113.097
36\pi | 36
\pi^2 | \pi \cdot \pi
\pi^2 | 2\pi
4\pi - 2 | -2 + 4\pi
4\pi\sqrt{3} | 4\sqrt{3}\pi
100\pi | 100 π
\frac{\pi\sqrt{2}}{4} | \frac{\sqrt{2}\pi}{4}
""",
    "tuples": r"""
(1,2) | (1,2)
(1,2) | (1, 2)
(1,2) | (2,1)
(1,2) | (1,3)
(1,2,3) | (1,2,3)
(1,2,3) | (1,2)
(1,2,3) | (3,2,1)
(\frac{1}{2}, 3) | (0.5, 3)
(\frac{1}{2}, 3) | (0.5, 4)
(-1, \sqrt{4}) | (-1, 2)
(3, \frac{\pi}{2}) | (3, \pi/2)
(3, \frac{\pi}{2}) | (3, \pi)
\left(1, 2\right) | (1,2)
(0, 0) | (0,0)
(6, 31, -1) | (6,31,-1)
(6, 31, -1) | (6,31,1)
(2, 5) | \left( 2, 5 \right)
(x, y) = (1, 2) | (1, 2)
""",
    "intervals": r"""
[1,2] | [1,2]
[1,2] | [1, 2]
[1,2) | [1,2)
[1,2) | [1,2]
[1,2) | (1,2)
(1,2] | (1, 2]
(1,2] | (1,3]
(-\infty, 3) | (-\infty, 3)
(-\infty, 3) | (-\infty, 3]
(-\infty, 3] | x \le 3
(3, \infty) | x > 3
(3, \infty) | x \ge 3
[3, \infty) | x \geq 3
[0, \frac{1}{2}] | [0, 0.5]
[0, \frac{1}{2}) | [0, 0.5)
(-\infty, -1) \cup (1, \infty) | (-\infty, -1) \cup (1, \infty)
(-\infty, -1) \cup (1, \infty) | (1, \infty) \cup (-\infty, -1)
(-\infty, -1) \cup (1, \infty) | (-\infty, -1] \cup (1, \infty)
(-\infty, -1) \cup (1, \infty) | (-\infty, 1)
[-2, 7] | -2 \le x \le 7
(2, 12) \cup (12, 102) | (2,12)\cup(12,102)
1 < x < 5 | (1, 5)
1 < x < 5 | 1 < x \le 5
x > 2 | x > 2
x > 2 | x < 2
""",
    "sets": r"""
\{1,2\} | \{1,2\}
\{1,2\} | \{2,1\}
\{1,2\} | \{1,3\}
\{1,2\} | \{1,2,3\}
\{1,2,2\} | \{1,2\}
\{1,2,3\} | \{3,1,2\}
\{0, \frac{1}{2}\} | \{0.5, 0\}
\{\sqrt{2}, -\sqrt{2}\} | \{-\sqrt{2}, \sqrt{2}\}
\{\sqrt{2}, -\sqrt{2}\} | \pm\sqrt{2}
\pm 3 | 3, -3
\pm 3 | 3
1, 2 | 1, 2
1, 2 | 2, 1
1, 2 | 1, 3
1, 2, 3 | 1, 2
1 \text{ and } 2 | 1, 2
-2, 1 | \{-2, 1\}
1 \pm \sqrt{3} | 1 + \sqrt{3}, 1 - \sqrt{3}
1 \pm \sqrt{3} | 1 + \sqrt{3}
\{5\} | 5
""",
    "equations and letters": r"""
x = 5 | 5
5 | x = 5
x = 5 | x = 5
x = 5 | x = 6
y = 2x + 3 | y = 3 + 2x
y = 2x + 3 | 2x + 3
y = 2x + 3 | y = 2x - 3
2x + 3 | 2 x + 3
2x + 3 | 3 + 2x
2x + 3 | 2x + 4
x^2 - 1 | (x-1)(x+1)
x^2 - 1 | (x-1)^2
x^2+2x+1 | (x+1)^2
\frac{x}{2} | 0.5x
\frac{1}{x} | x^{-1}
\frac{x^2-1}{x-1} | x+1
a+b | b+a
ab | ba
2ab | 2a b
3 + 4i | 4i + 3
3 + 4i | 3 - 4i
i^2 | -1
\frac{1}{i} | -i
f(x) = x^2 | x^2
n(n+1) | n^2+n
3+4=7 | 7
""",
    "units and words": r"""
5 | 5 cm
5 \text{ cm} | 5
5 \text{ cm} | 5 \text{ cm}
5 \text{ cm} | 6 \text{ cm}
5 \text{ cm} | 5 \text{ m}
12 | 12 apples
12 | 15 apples
12 | \$12
\$5 | 5
\$5 | 5.00
\$1,250 | 1250
90^\circ | 90
90^\circ | 90^{\circ}
90^\circ | 45^\circ
90 | 90 \text{ degrees}
10 \text{ m}^2 | 10
18 \text{ inches} | 18
3 \text{ hours} | 3 \text{ hour}
\text{even} | \text{even}
\text{even} | even
\text{even} | \text{odd}
\text{Yes} | \text{No}
8 | eight
\text{Tuesday} | Tuesday
""",
    "choices": r"""
A | A
A | B
B | (B)
B | \text{B}
B | \text{(B)}
C | C.
C | D
D | (D) 12
E | e
\text{(C)} | C
""",
    "layout": r"""
5 | $5$
5 | \boxed{5}
\boxed{5} | 5
5 | \(5\)
5 | \[5\]
5 | **5**
\frac{1}{2} | $\frac{1}{2}$
\left( \frac{1}{2} \right) | \frac{1}{2}
3.5 | 3{,}5
10 | 1\,0
1{,}000 | 1000
10\,000 | 10000
\displaystyle \frac{1}{2} | \frac{1}{2}
5 | 5\,
5 | {5}
-5 | −5
6 | 2·3
6 | 12÷2
0.5 | ½
16 | 4²
\sqrt{2} | √2
2\sqrt{3} | 2√3
5 | five
""",
    "beyond": r"""
\log 2 | \log 2
\ln 2 | \log 2
\sin x | \sin x
\sin^2 x + \cos^2 x | 1
e^{2} | e^2
e^{x} | e^{x}
2^{100} | 1267650600228229401496703205376
2^{100} | 2^{99} + 2^{99}
\binom{5}{2} | 10
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1\\3\end{pmatrix}
|{-3}| | 3
\lfloor 2.5 \rfloor | 2
\emptyset | \emptyset
\infty | \infty
-\infty | \infty
x \in \mathbb{R} | \mathbb{R}
0.\overline{3} | \frac{1}{3}
\frac{0}{0} | 1
2x+3y=6 | 4x+6y=12
1:2 | 0.5
""",
}


def judge(expected, given):
    def read(text):
        return parse(text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$", parsing_timeout=None)

    one, other = read(expected), read(given)
    if not one or not other:
        return None
    return bool(verify(one, other, timeout_seconds=None))


def main():
    rows = [(kind, *(part.strip() for part in line.split(" | "))) for kind, lines in TABLE.items() for line in lines.strip().splitlines()]
    for kind, expected, given in rows:
        print(json.dumps({"kind": kind, "expected": expected, "given": given, "math_verify": judge(expected, given)}, ensure_ascii=False))
    print(f"{len(rows)} answers", file=sys.stderr)


main()
