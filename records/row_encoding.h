#pragma once
// One row of soft targets: the teacher's distribution at one position in a few bytes.
//
// An entry, little-endian:
//   sample  3 bytes   U24  id << 6 | draws     draws 1 .. 63, ids below 2^18
//   top-k   5 bytes   U24  id                  ids below 2^24
//                     F16  log-probability
// A row is its entries by ascending id.

#include <cstdint>
#include <span>
#include <vector>

#include "core/digest.h"

namespace overproof {

struct RowEncoding {
  enum class Kind { sample, top_k } kind = Kind::sample;
  int64_t count = 50;  ///< draws (1 .. 63) or k (1 .. 255)
  double temperature = 1.0;
  int64_t seed = 0;
  int64_t entry_bytes() const { return kind == Kind::sample ? 3 : 5; }
  /// Largest vocabulary whose ids fit an entry.
  int64_t max_vocab() const { return kind == Kind::sample ? int64_t{1} << 18 : int64_t{1} << 24; }
};

/// Appends the entries of one row and returns their number. Draws are uniform numbers keyed by (seed, document, position in the
/// document), mapped to ids by the inverse of the cumulative distribution: a row depends on its logits and key only. Throws
/// DivergenceError when a logit is not finite. `scratch` is working memory, reused between calls.
int64_t encode_row(std::span<const float> logits, const RowEncoding& encoding, const Digest& document, int64_t position,
                   std::vector<float>& scratch, std::vector<uint8_t>& entries);

/// Appends the entries of a row of kind top-k that is known by its likeliest ids only, ascending, with their natural log-probabilities,
/// and returns their number: probabilities that are zero in f32 are left to the tail.
int64_t encode_log_probabilities(std::span<const int32_t> ids, std::span<const float> logs, std::vector<uint8_t>& entries);

struct DecodedEntry {
  int32_t id = 0;
  float probability = 0;
  int64_t draws = 0;  ///< sample only
};
DecodedEntry decode_entry(const uint8_t* entry, const RowEncoding& encoding);

}  // namespace overproof
