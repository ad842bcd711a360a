"""Green lists of the watermark, computed without any of overproof's code: HMAC by Python, Philox4x32-10 as Salmon et al. 2011 give it.

Usage: python3 generate.py > watermark.json
"""
import hashlib
import hmac
import json
import struct


def philox4x32(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def green(secret, fraction, context, token):
    message = b"overproof watermark v1" + b"".join(struct.pack("<i", t) for t in context)
    words = struct.unpack("<8I", hmac.new(secret, message, hashlib.sha256).digest())
    return philox4x32([token // 4, 0, words[2], words[3]], words[:2])[token % 4] < round(fraction * 2**32)


def main():
    cases = []
    for number, (fraction, context) in enumerate([(0.25, [5]), (0.25, [0, 256]), (0.5, [40000, 7, 123456]), (0.1, [1, 2, 3, 4])]):
        secret = hashlib.sha256(b"watermark test %d" % number).digest()
        parameters = struct.pack("<II", round(fraction * 2**32), len(context))
        cases.append({"secret": secret.hex(), "green_fraction": fraction, "context": context,
                      "green": [t for t in range(300) if green(secret, fraction, context, t)],
                      "commitment": hashlib.sha256(b"overproof watermark key v1" + parameters + secret).hexdigest()})
    macs = []
    for key, message in ((b"", b""), (b"key", b"The quick brown fox jumps over the lazy dog"), (b"\xaa" * 131, b"longer than a block"), (b"k" * 64, b"m" * 200)):
        macs.append([key.hex(), message.hex(), hmac.new(key, message, hashlib.sha256).hexdigest()])
    print(json.dumps({"lists": cases, "hmac": macs}))


main()
