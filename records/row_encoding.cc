#include "records/row_encoding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/logits.h"
#include "core/rng.h"

namespace overproof {
namespace {

constexpr int64_t kBlock = 64;  // ids between two stored values of the cumulative sum

/// The `count` uniform numbers of a row, ascending. Each position has 32 counters of four words.
std::vector<double> sorted_uniforms(const RowEncoding& encoding, const Digest& document, int64_t position) {
  uint64_t substream;
  std::memcpy(&substream, document.bytes.data(), 8);
  const Rng rng(uint64_t(encoding.seed), "teach/rows", substream);
  std::vector<double> u(static_cast<size_t>(encoding.count));
  for (size_t i = 0; i < u.size(); i += 2) {
    const auto w = rng.block(uint64_t(position) * 32 + i / 2);
    u[i] = double((uint64_t(w[1]) << 32 | w[0]) >> 11) * 0x1p-53;
    if (i + 1 < u.size()) u[i + 1] = double((uint64_t(w[3]) << 32 | w[2]) >> 11) * 0x1p-53;
  }
  std::sort(u.begin(), u.end());
  return u;
}

void append_sample(std::vector<uint8_t>& entries, int64_t id, int64_t draws) {
  const uint32_t v = uint32_t(id) << 6 | uint32_t(draws);
  entries.insert(entries.end(), {uint8_t(v), uint8_t(v >> 8), uint8_t(v >> 16)});
}

/// Unnormalised probabilities of all ids into p, and the cumulative sum at the end of each block of ids into `ends`.
void cumulate(std::span<const float> logits, double temperature, std::vector<float>& p, std::vector<double>& ends) {
  const float most = checked_maximum(logits), inverse = float(1.0 / temperature);
  const int64_t n = int64_t(logits.size());
  p.resize(size_t(n));
  for (int64_t i = 0; i < n; ++i) p[size_t(i)] = std::exp((logits[size_t(i)] - most) * inverse);
  ends.clear();
  double total = 0;
  for (int64_t b = 0; b < n; b += kBlock) {
    double sum = 0;
    for (int64_t i = b; i < std::min(n, b + kBlock); ++i) sum += double(p[size_t(i)]);
    ends.push_back(total += sum);
  }
}

int64_t encode_sample(std::span<const float> logits, const RowEncoding& encoding, const Digest& document, int64_t position,
                      std::vector<float>& p, std::vector<uint8_t>& entries) {
  std::vector<double> ends;
  cumulate(logits, encoding.temperature, p, ends);
  int64_t distinct = 0, last = -1, draws = 0;
  size_t block = 0;
  for (const double u : sorted_uniforms(encoding, document, position)) {
    const double target = u * ends.back();  // below ends.back(), as u < 1 - 2^-54
    while (ends[block] <= target) ++block;
    // The same additions in the same order as in cumulate(): the loop ends at the last id of the block at the latest.
    const double start = block == 0 ? 0.0 : ends[block - 1];
    int64_t id = int64_t(block) * kBlock;
    const int64_t end = std::min(id + kBlock, int64_t(p.size()));
    double sum = double(p[size_t(id)]);
    while (start + sum <= target && id + 1 < end) sum += double(p[size_t(++id)]);
    if (id != last) {
      if (draws > 0) append_sample(entries, last, draws);
      last = id;
      draws = 0;
      ++distinct;
    }
    ++draws;
  }
  append_sample(entries, last, draws);
  return distinct;
}

void append_top_k(std::vector<uint8_t>& entries, uint32_t id, float log_probability) {
  const uint16_t log_p = f32_to_f16(log_probability);
  entries.insert(entries.end(), {uint8_t(id), uint8_t(id >> 8), uint8_t(id >> 16), uint8_t(log_p), uint8_t(log_p >> 8)});
}

int64_t encode_top_k(std::span<const float> logits, const RowEncoding& encoding, std::vector<uint8_t>& entries) {
  const float most = checked_maximum(logits);
  double total = 0;
  for (const float x : logits) total += std::exp((double(x) - most) / encoding.temperature);
  const double log_total = std::log(total);
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto k = std::min<ptrdiff_t>(encoding.count, ptrdiff_t(ids.size()));
  if (k < ptrdiff_t(ids.size()))
    std::nth_element(ids.begin(), ids.begin() + k, ids.end(), [&](int32_t a, int32_t b) {
      const float x = logits[size_t(a)], y = logits[size_t(b)];
      return x != y ? x > y : a < b;
    });
  std::sort(ids.begin(), ids.begin() + k);
  for (ptrdiff_t i = 0; i < k; ++i) {
    const auto id = uint32_t(ids[size_t(i)]);
    append_top_k(entries, id, float((double(logits[id]) - most) / encoding.temperature - log_total));
  }
  return k;
}

}  // namespace

int64_t encode_row(std::span<const float> logits, const RowEncoding& encoding, const Digest& document, int64_t position,
                   std::vector<float>& scratch, std::vector<uint8_t>& entries) {
  OVERPROOF_CHECK(!logits.empty() && int64_t(logits.size()) <= encoding.max_vocab());
  return encoding.kind == RowEncoding::Kind::sample ? encode_sample(logits, encoding, document, position, scratch, entries)
                                                    : encode_top_k(logits, encoding, entries);
}

int64_t encode_log_probabilities(std::span<const int32_t> ids, std::span<const float> logs, std::vector<uint8_t>& entries) {
  OVERPROOF_CHECK(ids.size() == logs.size());
  constexpr float kLeastLog = -87.0f;  // exp() of less is no normal f32
  int64_t count = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (logs[i] < kLeastLog) continue;
    append_top_k(entries, uint32_t(ids[i]), logs[i]);
    ++count;
  }
  return count;
}

DecodedEntry decode_entry(const uint8_t* entry, const RowEncoding& encoding) {
  const uint32_t low = uint32_t(entry[0]) | uint32_t(entry[1]) << 8 | uint32_t(entry[2]) << 16;
  if (encoding.kind == RowEncoding::Kind::sample) {
    const int64_t draws = low & 63u;
    return {int32_t(low >> 6), float(double(draws) / double(encoding.count)), draws};
  }
  return {int32_t(low), std::exp(f16_to_f32(uint16_t(entry[3] | entry[4] << 8))), 0};
}

}  // namespace overproof
