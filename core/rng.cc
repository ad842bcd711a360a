#include "core/rng.h"

#include <cmath>
#include <cstring>

#include "core/digest.h"

namespace overproof {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k[0], uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k[1], uint32_t(p0)};
    k[0] += 0x9E3779B9u;  // Weyl sequence of the golden ratio
    k[1] += 0xBB67AE85u;  // and of sqrt(3) - 1
  }
  return c;
}

Rng::Rng(uint64_t seed, std::string_view stream, uint64_t substream) : substream_(substream) {
  Sha256 h;
  uint8_t little[8];
  for (int i = 0; i < 8; ++i) little[i] = uint8_t(seed >> (8 * i));
  h.update(little, 8);
  h.update(stream);
  const Digest d = h.finish();
  for (int w = 0; w < 2; ++w)
    key_[w] = uint32_t(d.bytes[4 * w]) | uint32_t(d.bytes[4 * w + 1]) << 8 | uint32_t(d.bytes[4 * w + 2]) << 16 |
              uint32_t(d.bytes[4 * w + 3]) << 24;
}

std::array<uint32_t, 4> Rng::block(uint64_t index) const {
  return philox4x32({uint32_t(index), uint32_t(index >> 32), uint32_t(substream_), uint32_t(substream_ >> 32)}, key_);
}

uint32_t Rng::next_u32() {
  if (left_ == 0) {
    words_ = block(index_++);
    left_ = 4;
  }
  return words_[4 - left_--];
}

uint64_t Rng::next_u64() {
  const uint64_t low = next_u32();
  return low | uint64_t(next_u32()) << 32;
}

double Rng::uniform() { return double(next_u64() >> 11) * 0x1p-53; }

double Rng::normal() {
  const double u = 1.0 - uniform();  // (0, 1]
  const double v = uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
}

uint64_t Rng::below(uint64_t n) {
  const uint64_t reject_from = n * (UINT64_MAX / n);  // the largest multiple of n that fits
  for (;;) {
    const uint64_t x = next_u64();
    if (x < reject_from) return x % n;
  }
}

}  // namespace overproof
