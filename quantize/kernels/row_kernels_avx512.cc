// Row kernels for AVX-512 (F, BW, DQ, VL: in every processor with AVX-512 except the first Xeon Phis): sixteen lanes.

#include <cstring>

#include "quantize/kernels/row_sums.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace overproof {
namespace {

#define OVERPROOF_SIMD __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl")))

#include "quantize/kernels/row_kernels_half.h"

#define OVERPROOF_MM(operation) _mm512_##operation

struct Simd {
  using F = __m512;
  using I = __m512i;
  static constexpr int kWidth = 16;

#include "quantize/kernels/row_kernels_lanes.h"

  OVERPROOF_SIMD static F load(const float* x) { return _mm512_loadu_ps(x); }
  OVERPROOF_SIMD static F load(const uint16_t* bf16) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bf16));
    return as_f(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  OVERPROOF_SIMD static F as_f(I v) { return _mm512_castsi512_ps(v); }
  OVERPROOF_SIMD static I as_i(F v) { return _mm512_castps_si512(v); }
  OVERPROOF_SIMD static I and_(I a, I b) { return _mm512_and_si512(a, b); }
  OVERPROOF_SIMD static I or_(I a, I b) { return _mm512_or_si512(a, b); }
  OVERPROOF_SIMD static bool any_above(F v, float limit) { return _mm512_cmp_ps_mask(v, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0; }

  /// Low bytes of two vectors.
  OVERPROOF_SIMD static void store_bytes(uint8_t* out, const I* v, I flip) {
    const __m128i a = _mm512_cvtepi32_epi8(v[0]), b = _mm512_cvtepi32_epi8(v[1]), x = _mm512_castsi512_si128(flip);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_xor_si128(a, x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_xor_si128(b, x));
  }

  /// Vectors with values in [0, 127] as bytes, with the top bits of `sign`.
  OVERPROOF_SIMD static void store_bytes_with_signs(uint8_t* out, const I* v, const I* sign) {
    I both[2];
    for (int i = 0; i < 2; ++i) both[i] = or_(v[i], _mm512_srai_epi32(and_(sign[i], set(int(0x80000000u))), 24));
    store_bytes(out, both, set(0));
  }

  /// The first step of add_lanes.
  OVERPROOF_SIMD static Half::F fold(const F* lane) {
    return _mm256_add_ps(_mm512_castps512_ps256(lane[0]), _mm512_extractf32x8_ps(lane[0], 1));
  }
  OVERPROOF_SIMD static uint32_t max_of_lanes(I v) {
    return Half::max_of_lanes(_mm256_max_epu32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
  }

  OVERPROOF_SIMD static I magnitudes16(const uint16_t* x) {
    return _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi16(0x7fff));
  }
  OVERPROOF_SIMD static uint32_t max_of_lanes16(I v) {
    return Half::max_of_lanes16(_mm256_max_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
  }
  /// Largest magnitude of 32 bf16, as its 16 bits.
  OVERPROOF_SIMD static uint32_t amax_of_32(const uint16_t* x) { return max_of_lanes16(magnitudes16(x)); }
  /// The same of n, a multiple of 128.
  OVERPROOF_SIMD static uint32_t amax_of_128s(const uint16_t* x, int64_t n) {
    I m[4] = {set(0), set(0), set(0), set(0)};
    for (int64_t i = 0; i < n; i += 128)
      for (int v = 0; v < 4; ++v) m[v] = _mm512_max_epu16(m[v], magnitudes16(x + i + v * 32));
    return max_of_lanes16(_mm512_max_epu16(_mm512_max_epu16(m[0], m[1]), _mm512_max_epu16(m[2], m[3])));
  }
};

#include "quantize/kernels/row_kernels_simd.h"

}  // namespace

const RowKernels* avx512_row_kernels() {
  static const RowKernels kernels{"avx512", kKernels<float>, kKernels<uint16_t>};
  static const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return supported ? &kernels : nullptr;
}

}  // namespace overproof

#else

namespace overproof {
const RowKernels* avx512_row_kernels() { return nullptr; }
}  // namespace overproof

#endif
