#pragma once
// The order of training is a keyed permutation of window indices: a balanced Feistel network with cycle-walking
// (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). It takes no storage, and its inverse gives the position at
// which a window was used.

#include <array>
#include <cstdint>
#include <string_view>

#include "core/digest.h"

namespace overproof {

class Permutation {
 public:
  /// A permutation of [0, n), n >= 1, fixed by key and tweak (for instance the epoch).
  Permutation(const Digest& key, uint64_t tweak, int64_t n);
  int64_t forward(int64_t position) const;  ///< position -> element
  int64_t inverse(int64_t element) const;   ///< element -> position

 private:
  uint64_t round(uint64_t half, int r) const;
  std::array<uint64_t, 8> keys_{};
  int64_t n_;
  int half_bits_;
};

/// The key of a training order: SHA-256 over the corpus root and the user's seed, so that it cannot be chosen before
/// the corpus is fixed. A trainer can still try seeds. `beacon`: public randomness in hex that was published after the corpus, a
/// drand round for instance; with it and a seed that was announced before, the trainer has no choice left.
///   without beacon   SHA-256("overproof training order v1" || root || seed)
///   with beacon      SHA-256("overproof training order v2" || root || beacon's length in bytes || beacon || seed)
///   numbers          U64 little-endian
/// Throws UsageError unless the beacon is "" or 1 to 512 bytes in hex.
Digest order_key(const Digest& corpus_root, int64_t seed, std::string_view beacon = {});

/// Which windows are taught, and when each is trained on. Soft targets cover `taught` windows: block q holds window
/// permutation(key, 0, windows).forward(q). Epoch e (from 0) of training visits the blocks in the order
/// permutation(key, e + 1, taught). Position p of training is epoch p / taught, place p % taught.
class TrainingOrder {
 public:
  TrainingOrder(const Digest& key, int64_t windows, int64_t taught);
  int64_t window_of_block(int64_t block) const;
  int64_t block_of_window(int64_t window) const;  ///< -1 when that window is not taught
  int64_t block_at(int64_t position) const;
  int64_t position_of(int64_t block, int64_t epoch) const;
  int64_t taught() const { return taught_; }

 private:
  Digest key_;
  int64_t windows_, taught_;
};

}  // namespace overproof
