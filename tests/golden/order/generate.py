"""Writes order.json: positions and elements of the keyed permutation, computed without any of overproof's code.

Usage: python3 generate.py > order.json
The network is the one that data/order.h describes: SHA-256 round keys, Philox4x32-10 rounds, cycle-walking.
"""
import hashlib
import json
import struct


def philox4x32(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def permute(key, tweak, n, position):
    seed = b"overproof permutation v1" + key + struct.pack("<Q", tweak)
    keys = struct.unpack("<8Q", b"".join(hashlib.sha256(seed + struct.pack("<Q", h)).digest() for h in (0, 1)))
    bits = ((n - 1).bit_length() if n > 1 else 1)
    half = (bits + 1) // 2
    mask = (1 << half) - 1
    x = position
    while True:
        left, right = x >> half, x & mask
        for r in range(8):
            w = philox4x32([right & 0xFFFFFFFF, right >> 32, r, 0], [keys[r] & 0xFFFFFFFF, keys[r] >> 32])
            left, right = right, left ^ ((w[1] << 32 | w[0]) & mask)
        x = left << half | right
        if x < n:
            return x


def main():
    root = hashlib.sha256(b"a corpus").digest()
    key = hashlib.sha256(b"overproof training order v1" + root + struct.pack("<q", 7)).digest()
    cases = []
    for tweak, n in [(0, 1), (0, 2), (1, 3), (0, 10), (2, 1000), (3, 65536), (1, 65537), (9, 10**12), (4, 2**63 - 1)]:
        positions = sorted({0, 1 % n, n // 3, n // 2, n - 1})
        cases.append({"tweak": tweak, "n": n, "positions": positions,
                      "elements": [permute(key, tweak, n, p) for p in positions]})
    whole = {"tweak": 5, "n": 23, "positions": list(range(23)), "elements": [permute(key, 5, 23, p) for p in range(23)]}
    beacon = bytes(range(32))
    drawn = hashlib.sha256(b"overproof training order v2" + root + struct.pack("<Q", len(beacon)) + beacon + struct.pack("<q", 7)).digest()
    print(json.dumps({"beacon": beacon.hex(), "beacon_key": drawn.hex(), "corpus_root": root.hex(), "seed": 7, "key": key.hex(), "cases": cases + [whole]}, indent=1))


if __name__ == "__main__":
    main()
