#pragma once
// One row of soft targets: from the teacher's logits at one position to a few bytes, and back.

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
  /// Ids that fit an entry.
  int64_t max_vocab() const { return kind == Kind::sample ? int64_t{1} << 18 : int64_t{1} << 24; }
};

/// Appends the entries of one row, ascending ids, and returns how many there are. Draws are uniform numbers keyed by
/// (seed, document, position in the document), turned into ids by the inverse of the cumulative distribution; so a row depends
/// on its logits and key alone. Throws UsageError when a logit is not finite. `scratch` is working memory, reused between calls.
int64_t encode_row(std::span<const float> logits, const RowEncoding& encoding, const Digest& document, int64_t position,
                   std::vector<float>& scratch, std::vector<uint8_t>& entries);

struct DecodedEntry {
  int32_t id = 0;
  float probability = 0;
  int64_t draws = 0;  ///< sample only
};
DecodedEntry decode_entry(const uint8_t* entry, const RowEncoding& encoding);

}  // namespace overproof
