#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
// A draw depends only on (seed, stream, index), so neither thread count nor resuming changes it. No std::
// distributions: they differ between standard libraries.

#include <array>
#include <cstdint>
#include <string_view>

namespace overproof {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// A named stream of random numbers. `stream` names what the draws are for ("teach/rows", "carve/kmeans").
class Rng {
 public:
  Rng(uint64_t seed, std::string_view stream, uint64_t substream = 0);
  /// The four words number `index` of this stream; does not change the state.
  std::array<uint32_t, 4> block(uint64_t index) const;
  uint32_t next_u32();
  uint64_t next_u64();
  double uniform();            ///< [0, 1), 53 bits
  double normal();             ///< standard normal (Box-Muller)
  uint64_t below(uint64_t n);  ///< [0, n), unbiased; n > 0

 private:
  std::array<uint32_t, 2> key_;
  uint64_t substream_;
  uint64_t index_ = 0;
  std::array<uint32_t, 4> words_{};
  int left_ = 0;
};

}  // namespace overproof
