// Row kernels for AVX2: eight lanes.

#include <cstring>

#include "quantize/kernels/row_sums.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace overproof {
namespace {

#define OVERPROOF_SIMD __attribute__((target("avx2")))

#include "quantize/kernels/row_kernels_half.h"

#define OVERPROOF_MM(operation) _mm256_##operation

struct Simd {
  using F = __m256;
  using I = __m256i;
  static constexpr int kWidth = 8;

#include "quantize/kernels/row_kernels_lanes.h"

  OVERPROOF_SIMD static F load(const float* x) { return _mm256_loadu_ps(x); }
  OVERPROOF_SIMD static F load(const uint16_t* bf16) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16));
    return as_f(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  OVERPROOF_SIMD static F as_f(I v) { return _mm256_castsi256_ps(v); }
  OVERPROOF_SIMD static I as_i(F v) { return _mm256_castps_si256(v); }
  OVERPROOF_SIMD static I and_(I a, I b) { return _mm256_and_si256(a, b); }
  OVERPROOF_SIMD static I or_(I a, I b) { return _mm256_or_si256(a, b); }
  OVERPROOF_SIMD static bool any_above(F v, float limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(limit), _CMP_GT_OQ)) != 0;
  }

  /// Four vectors as bytes, saturated.
  OVERPROOF_SIMD static I pack(const I* v) {
    return _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  }
  /// The pack instructions work within 128-bit halves; this restores the order of the eight groups of four codes.
  OVERPROOF_SIMD static void store_packed(uint8_t* out, I bytes) {
    const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<I*>(out), _mm256_permutevar8x32_epi32(bytes, order));
  }
  /// Vectors with values in [-128, 127] as bytes.
  OVERPROOF_SIMD static void store_bytes(uint8_t* out, const I* v, I flip) { store_packed(out, _mm256_xor_si256(pack(v), flip)); }
  /// Vectors with values in [0, 127] as bytes, with the top bits of `sign`.
  OVERPROOF_SIMD static void store_bytes_with_signs(uint8_t* out, const I* v, const I* sign) {
    store_packed(out, _mm256_or_si256(pack(v), _mm256_and_si256(pack(sign), _mm256_set1_epi8(-128))));
  }

  /// The first step of add_lanes.
  OVERPROOF_SIMD static Half::F fold(const F* lane) { return _mm256_add_ps(lane[0], lane[1]); }
  OVERPROOF_SIMD static uint32_t max_of_lanes(I v) { return Half::max_of_lanes(v); }

  OVERPROOF_SIMD static I magnitudes16(const uint16_t* x) {
    return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const I*>(x)), _mm256_set1_epi16(0x7fff));
  }
  /// Largest magnitude of 32 bf16, as its 16 bits.
  OVERPROOF_SIMD static uint32_t amax_of_32(const uint16_t* x) {
    return Half::max_of_lanes16(_mm256_max_epu16(magnitudes16(x), magnitudes16(x + 16)));
  }
  /// The same of n, a multiple of 128.
  OVERPROOF_SIMD static uint32_t amax_of_128s(const uint16_t* x, int64_t n) {
    I m[4] = {set(0), set(0), set(0), set(0)};
    for (int64_t i = 0; i < n; i += 64)
      for (int v = 0; v < 4; ++v) m[v] = _mm256_max_epu16(m[v], magnitudes16(x + i + v * 16));
    return Half::max_of_lanes16(_mm256_max_epu16(_mm256_max_epu16(m[0], m[1]), _mm256_max_epu16(m[2], m[3])));
  }
};

#include "quantize/kernels/row_kernels_simd.h"

}  // namespace

const RowKernels* avx2_row_kernels() {
  static const RowKernels kernels{"avx2", kKernels<float>, kKernels<uint16_t>};
  static const bool supported = __builtin_cpu_supports("avx2");
  return supported ? &kernels : nullptr;
}

}  // namespace overproof

#else

namespace overproof {
const RowKernels* avx2_row_kernels() { return nullptr; }
}  // namespace overproof

#endif
