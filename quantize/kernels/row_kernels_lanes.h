// The operations of struct Simd that differ between instruction sets by their names' beginning alone. Included inside that struct by
// row_kernels_avx2.cc and row_kernels_avx512.cc, which define OVERPROOF_SIMD and OVERPROOF_MM.

OVERPROOF_SIMD static void store(float* x, F v) { OVERPROOF_MM(storeu_ps)(x, v); }
OVERPROOF_SIMD static F set(float x) { return OVERPROOF_MM(set1_ps)(x); }
OVERPROOF_SIMD static I set(int x) { return OVERPROOF_MM(set1_epi32)(x); }
OVERPROOF_SIMD static F to_f(I v) { return OVERPROOF_MM(cvtepi32_ps)(v); }
OVERPROOF_SIMD static I round(F v) { return OVERPROOF_MM(cvtps_epi32)(v); }  // to nearest, ties to even: the default mode
OVERPROOF_SIMD static I truncate(F v) { return OVERPROOF_MM(cvttps_epi32)(v); }
OVERPROOF_SIMD static F add(F a, F b) { return OVERPROOF_MM(add_ps)(a, b); }
OVERPROOF_SIMD static F sub(F a, F b) { return OVERPROOF_MM(sub_ps)(a, b); }
OVERPROOF_SIMD static F mul(F a, F b) { return OVERPROOF_MM(mul_ps)(a, b); }
OVERPROOF_SIMD static F div(F a, F b) { return OVERPROOF_MM(div_ps)(a, b); }
OVERPROOF_SIMD static F min(F a, F b) { return OVERPROOF_MM(min_ps)(a, b); }
OVERPROOF_SIMD static F max(F a, F b) { return OVERPROOF_MM(max_ps)(a, b); }
OVERPROOF_SIMD static I add(I a, I b) { return OVERPROOF_MM(add_epi32)(a, b); }
OVERPROOF_SIMD static I sub(I a, I b) { return OVERPROOF_MM(sub_epi32)(a, b); }
OVERPROOF_SIMD static I max_unsigned(I a, I b) { return OVERPROOF_MM(max_epu32)(a, b); }
template <int kBits>
OVERPROOF_SIMD static I shift_right(I a) {
  return OVERPROOF_MM(srli_epi32)(a, kBits);
}
