#include "core/sha256_ni.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

namespace overproof {
namespace {

#define OVERPROOF_SHA __attribute__((target("sha,sse4.1"), always_inline)) inline

// The constants of FIPS 180-4, section 4.2.2.
alignas(64) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/// One message: the state in the order of the instructions (a b e f, c d g h) and the last sixteen words of the schedule.
struct Lane {
  __m128i abef, cdgh, abef_before, cdgh_before;
  __m128i w[4];
};

OVERPROOF_SHA void load_state(Lane& lane, const uint32_t* state) {
  const __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  const __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
  lane.abef = _mm_alignr_epi8(cdab, efgh, 8);
  lane.cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
}

OVERPROOF_SHA void store_state(const Lane& lane, uint32_t* state) {
  const __m128i feba = _mm_shuffle_epi32(lane.abef, 0x1b), dchg = _mm_shuffle_epi32(lane.cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/// Four rounds of every lane. Group G of 16: w[G % 4] holds the words of its rounds when it begins.
template <int kLanes, int G>
OVERPROOF_SHA void four_rounds(Lane (&lanes)[kLanes], const uint8_t* const (&data)[kLanes]) {
  const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i*>(kRound + 4 * G));
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i added[kLanes];
#pragma GCC unroll 3
  for (int l = 0; l < kLanes; ++l) {
    if constexpr (G < 4) lanes[l].w[G] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data[l]) + G), swap);
    added[l] = _mm_add_epi32(lanes[l].w[G % 4], constants);
    lanes[l].cdgh = _mm_sha256rnds2_epu32(lanes[l].cdgh, lanes[l].abef, added[l]);
  }
#pragma GCC unroll 3
  for (int l = 0; l < kLanes; ++l) {
    __m128i(&w)[4] = lanes[l].w;
    // The schedule runs three groups ahead: sigma 0 one group after its words came, the rest when the last of them is there.
    if constexpr (G >= 3 && G < 15) {
      __m128i& next = w[(G + 1) % 4];
      next = _mm_add_epi32(next, _mm_alignr_epi8(w[G % 4], w[(G + 3) % 4], 4));
      next = _mm_sha256msg2_epu32(next, w[G % 4]);
    }
    lanes[l].abef = _mm_sha256rnds2_epu32(lanes[l].abef, lanes[l].cdgh, _mm_shuffle_epi32(added[l], 0x0e));
    if constexpr (G >= 1 && G < 13) w[(G + 3) % 4] = _mm_sha256msg1_epu32(w[(G + 3) % 4], w[G % 4]);
  }
}

template <int kLanes>
__attribute__((target("sha,sse4.1"))) void compress(uint32_t* const* states, const uint8_t* const* from, size_t blocks) {
  Lane lanes[kLanes];
  const uint8_t* data[kLanes];
#pragma GCC unroll 3
  for (int l = 0; l < kLanes; ++l) {
    load_state(lanes[l], states[l]);
    data[l] = from[l];
  }
  for (; blocks > 0; --blocks) {
#pragma GCC unroll 3
    for (int l = 0; l < kLanes; ++l) {
      lanes[l].abef_before = lanes[l].abef;
      lanes[l].cdgh_before = lanes[l].cdgh;
    }
    four_rounds<kLanes, 0>(lanes, data);
    four_rounds<kLanes, 1>(lanes, data);
    four_rounds<kLanes, 2>(lanes, data);
    four_rounds<kLanes, 3>(lanes, data);
    four_rounds<kLanes, 4>(lanes, data);
    four_rounds<kLanes, 5>(lanes, data);
    four_rounds<kLanes, 6>(lanes, data);
    four_rounds<kLanes, 7>(lanes, data);
    four_rounds<kLanes, 8>(lanes, data);
    four_rounds<kLanes, 9>(lanes, data);
    four_rounds<kLanes, 10>(lanes, data);
    four_rounds<kLanes, 11>(lanes, data);
    four_rounds<kLanes, 12>(lanes, data);
    four_rounds<kLanes, 13>(lanes, data);
    four_rounds<kLanes, 14>(lanes, data);
    four_rounds<kLanes, 15>(lanes, data);
#pragma GCC unroll 3
    for (int l = 0; l < kLanes; ++l) {
      lanes[l].abef = _mm_add_epi32(lanes[l].abef, lanes[l].abef_before);
      lanes[l].cdgh = _mm_add_epi32(lanes[l].cdgh, lanes[l].cdgh_before);
      data[l] += 64;
    }
  }
#pragma GCC unroll 3
  for (int l = 0; l < kLanes; ++l) store_state(lanes[l], states[l]);
}

bool has_sha_extensions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kSsse3 = 1u << 9, kSse41 = 1u << 19, kSha = 1u << 29;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSsse3) || !(c & kSse41)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & kSha);
}

}  // namespace

Sha256Kernel sha256_ni_kernel(int lanes) {
  static const bool supported = has_sha_extensions();
  static constexpr Sha256Kernel kKernels[kSha256Lanes] = {compress<1>, compress<2>, compress<3>};
  return supported && lanes >= 1 && lanes <= kSha256Lanes ? kKernels[lanes - 1] : nullptr;
}

}  // namespace overproof

#else

namespace overproof {
Sha256Kernel sha256_ni_kernel(int) { return nullptr; }
}  // namespace overproof

#endif
