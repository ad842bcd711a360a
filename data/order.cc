#include "data/order.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/rng.h"

namespace overproof {

namespace {

constexpr int kRounds = 8;  // four make a pseudo-random permutation (Luby and Rackoff 1988); the rest is margin for tiny halves

constexpr size_t kMostBeaconBytes = 512;

void put_u64(Sha256& hash, uint64_t value) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(value >> (8 * i));
  hash.update(bytes, 8);
}

std::string beacon_bytes(std::string_view hex) {
  std::string bytes;
  bool good = hex.size() % 2 == 0 && hex.size() <= 2 * kMostBeaconBytes;
  for (size_t i = 0; good && i < hex.size(); i += 2) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(hex.data() + i, hex.data() + i + 2, value, 16);
    good = error == std::errc() && end == hex.data() + i + 2;
    bytes += char(value);
  }
  if (!good) throw UsageError("the order beacon '" + std::string(hex.substr(0, 80)) + "' is not 1 to 512 bytes in hexadecimal");
  return bytes;
}

}  // namespace

Permutation::Permutation(const Digest& key, uint64_t tweak, int64_t n) : n_(n) {
  OVERPROOF_CHECK(n >= 1);
  // The smallest even number of bits whose domain holds [0, n): at most 4n values, so a walk takes 4 steps on average.
  const int bits = n > 1 ? std::bit_width(uint64_t(n - 1)) : 1;
  half_bits_ = (bits + 1) / 2;
  for (int half = 0; half < 2; ++half) {
    Sha256 hash;
    hash.update("overproof permutation v1");
    hash.update(key.bytes.data(), key.bytes.size());
    put_u64(hash, tweak);
    put_u64(hash, uint64_t(half));
    const Digest words = hash.finish();
    for (int i = 0; i < 4; ++i) {
      uint64_t word = 0;
      for (int b = 7; b >= 0; --b) word = word << 8 | words.bytes[size_t(8 * i + b)];
      keys_[size_t(4 * half + i)] = word;
    }
  }
}

uint64_t Permutation::round(uint64_t half, int r) const {
  const uint64_t key = keys_[size_t(r)];
  const auto words = philox4x32({uint32_t(half), uint32_t(half >> 32), uint32_t(r), 0}, {uint32_t(key), uint32_t(key >> 32)});
  return (uint64_t(words[1]) << 32 | words[0]) & ((uint64_t{1} << half_bits_) - 1);
}

int64_t Permutation::forward(int64_t position) const {
  OVERPROOF_CHECK(position >= 0 && position < n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = uint64_t(position);
  do {
    uint64_t left = x >> half_bits_, right = x & mask;
    for (int r = 0; r < kRounds; ++r) {
      const uint64_t next = left ^ round(right, r);
      left = right;
      right = next;
    }
    x = left << half_bits_ | right;
  } while (x >= uint64_t(n_));  // cycle-walking: ends, because the walk's cycle holds `position`
  return int64_t(x);
}

int64_t Permutation::inverse(int64_t element) const {
  OVERPROOF_CHECK(element >= 0 && element < n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = uint64_t(element);
  do {
    uint64_t left = x >> half_bits_, right = x & mask;
    for (int r = kRounds - 1; r >= 0; --r) {
      const uint64_t before = right ^ round(left, r);
      right = left;
      left = before;
    }
    x = left << half_bits_ | right;
  } while (x >= uint64_t(n_));
  return int64_t(x);
}

Digest order_key(const Digest& corpus_root, int64_t seed, std::string_view beacon) {
  Sha256 hash;
  hash.update(beacon.empty() ? "overproof training order v1" : "overproof training order v2");
  hash.update(corpus_root.bytes.data(), corpus_root.bytes.size());
  if (!beacon.empty()) {
    const std::string bytes = beacon_bytes(beacon);
    put_u64(hash, bytes.size());
    hash.update(bytes);
  }
  put_u64(hash, uint64_t(seed));
  return hash.finish();
}

TrainingOrder::TrainingOrder(const Digest& key, int64_t windows, int64_t taught) : key_(key), windows_(windows), taught_(taught) {
  if (taught < 1 || taught > windows) {
    throw MismatchError("the number of taught windows, " + std::to_string(taught) + ", must be between 1 and the corpus's " +
                        std::to_string(windows));
  }
}

int64_t TrainingOrder::window_of_block(int64_t block) const {
  OVERPROOF_CHECK(block >= 0 && block < taught_);
  return Permutation(key_, 0, windows_).forward(block);
}

int64_t TrainingOrder::block_of_window(int64_t window) const {
  const int64_t block = Permutation(key_, 0, windows_).inverse(window);
  return block < taught_ ? block : -1;
}

int64_t TrainingOrder::block_at(int64_t position) const {
  OVERPROOF_CHECK(position >= 0);
  return Permutation(key_, uint64_t(position / taught_) + 1, taught_).forward(position % taught_);
}

int64_t TrainingOrder::position_of(int64_t block, int64_t epoch) const {
  OVERPROOF_CHECK(epoch >= 0);
  return epoch * taught_ + Permutation(key_, uint64_t(epoch) + 1, taught_).inverse(block);
}

}  // namespace overproof
