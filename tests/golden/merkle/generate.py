"""Writes merkle.json: roots and inclusion proofs of RFC 9162 trees by pymerkle, held against a transcription of the RFC's recursive
definitions, which also gives the consistency proofs. None of overproof's code is used.

Usage: python3 generate.py > merkle.json
Leaf i of the trees is SHA-256 of the ASCII digits of i. The tree "rfc6962" has the eight leaves that certificate-transparency-go tests with.
"""

import hashlib
import json

from pymerkle import InmemoryTree

RFC6962_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]


def leaf(i):
    return hashlib.sha256(str(i).encode()).digest()


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d):
    if not d:
        return hashlib.sha256(b"").digest()
    if len(d) == 1:
        return hashlib.sha256(b"\0" + d[0]).digest()
    k = split(len(d))
    return hashlib.sha256(b"\1" + mth(d[:k]) + mth(d[k:])).digest()


def path(m, d):
    if len(d) == 1:
        return []
    k = split(len(d))
    return path(m, d[:k]) + [mth(d[k:])] if m < k else path(m - k, d[k:]) + [mth(d[:k])]


def subproof(m, d, whole):
    if m == len(d):
        return [] if whole else [mth(d)]
    k = split(len(d))
    if m <= k:
        return subproof(m, d[:k], whole) + [mth(d[k:])]
    return subproof(m - k, d[k:], False) + [mth(d[:k])]


def hexes(digests):
    return [digest.hex() for digest in digests]


def main():
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 255, 256, 257, 300, 511, 512, 513, 1000, 65535, 65536, 65537, 70000]
    leaves = [leaf(i) for i in range(sizes[-1])]
    tree = InmemoryTree(algorithm="sha256", disable_security=False)
    for data in leaves:
        tree.append_entry(data)
    trees, inclusions, consistencies = [{"size": 0, "root": hashlib.sha256(b"").hexdigest()}], [], []
    for size in sizes:
        root = tree.get_root(size)
        if size < 2000:
            assert root == mth(leaves[:size])
        trees.append({"size": size, "root": root.hex()})
        for index in sorted({0, 1, size // 3, size // 2, 254, 255, 256, size - 2, size - 1} & set(range(size))):
            proof = tree.prove_inclusion(index + 1, size).path
            assert proof[0] == hashlib.sha256(b"\0" + leaves[index]).digest()  # pymerkle puts the leaf itself first
            if size < 2000:
                assert proof[1:] == path(index, leaves[:size])
            inclusions.append({"size": size, "index": index, "path": hexes(proof[1:])})
        for first in sorted({1, 2, 3, size // 3, size // 2, 255, 256, 257, size - 1, size} & set(range(1, size + 1))):
            # pymerkle's own consistency proofs walk another way where `first` is a node of the tree, so the RFC's definition is the source.
            consistencies.append({"first": first, "second": size, "path": hexes(subproof(first, leaves[:size], True))})
    vectors = [bytes.fromhex(text) for text in RFC6962_LEAVES]
    rfc6962 = [{"size": n, "root": mth(vectors[:n]).hex()} for n in range(1, 9)]
    other = InmemoryTree(algorithm="sha256", disable_security=False)
    for n, data in enumerate(vectors, 1):
        other.append_entry(data)
        assert other.get_root().hex() == rfc6962[n - 1]["root"]
    # As RFC 6962's reference implementation has it.
    assert rfc6962[7]["root"] == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    print(json.dumps({"trees": trees, "inclusions": inclusions, "consistencies": consistencies,
                      "rfc6962": {"leaves": RFC6962_LEAVES, "trees": rfc6962}}, indent=1))


main()
