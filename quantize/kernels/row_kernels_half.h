// Eight lanes of AVX2, which the AVX-512 kernels use too, for half a set of error sums and for the scales of eight groups. Not
// a stand-alone header: see row_kernels_simd.h.

struct Half {
  using F = __m256;
  using I = __m256i;

  OVERPROOF_SIMD static F add_weighed(F sum, F v, float weight) {
    return _mm256_add_ps(sum, _mm256_mul_ps(v, _mm256_set1_ps(weight)));
  }

  /// add_half_lanes of row_sums.h.
  OVERPROOF_SIMD static double add_lanes(F half) {
    const __m256d four =
        _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(half)), _mm256_cvtps_pd(_mm256_extractf128_ps(half, 1)));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
  }

  OVERPROOF_SIMD static uint32_t max_of_lanes(I v) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return uint32_t(_mm_cvtsi128_si32(m));
  }
  OVERPROOF_SIMD static uint32_t max_of_lanes16(I v) {
    const __m128i m = _mm_max_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(m, _mm_set1_epi16(-1)));  // there is no horizontal maximum
    return (uint32_t(_mm_cvtsi128_si32(least)) & 0xffffu) ^ 0xffffu;
  }

  OVERPROOF_SIMD static I select(I mask, I yes, I no) { return _mm256_blendv_epi8(no, yes, mask); }

  /// f32_to_f16 of numbers in [0, 65520).
  OVERPROOF_SIMD static I to_f16(F v) {
    const I a = _mm256_castps_si256(v), one = _mm256_set1_epi32(1);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(a, 13), one);
    const I rounded = _mm256_add_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(0xfff)), odd);
    const I normal = _mm256_srli_epi32(_mm256_sub_epi32(rounded, _mm256_set1_epi32(0x38000000)), 13);
    const I sum = _mm256_castps_si256(_mm256_add_ps(v, _mm256_set1_ps(0.5f)));
    const I subnormal = _mm256_sub_epi32(sum, _mm256_set1_epi32(0x3f000000));
    return select(_mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), a), subnormal, normal);
  }
  /// f16_to_f32 of finite numbers without a sign.
  OVERPROOF_SIMD static F from_f16(I h) {
    const I normal = _mm256_add_epi32(_mm256_slli_epi32(h, 13), _mm256_set1_epi32(0x38000000));
    const F subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(h), _mm256_set1_ps(0x1p-24f));
    const I small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x400), h);
    return _mm256_castsi256_ps(select(small, _mm256_castps_si256(subnormal), normal));
  }

  /// q8_0_scale of q8_0.h for eight groups.
  struct Q8Scales {
    float d[8], reciprocal[8], ratio[8];
    uint32_t stored[8];
  };
  OVERPROOF_SIMD static void q8_0_scales(const uint32_t* amax_bits, Q8Scales& out) {
    const F amax = _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const I*>(amax_bits)));
    const F d = _mm256_div_ps(amax, _mm256_set1_ps(127.0f));
    const I quotient = _mm256_castps_si256(_mm256_div_ps(_mm256_set1_ps(1.0f), d));
    const I finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7f800000), quotient);
    const F reciprocal = _mm256_castsi256_ps(_mm256_and_si256(quotient, finite));
    const I stored = to_f16(d);
    _mm256_storeu_ps(out.d, d);
    _mm256_storeu_ps(out.reciprocal, reciprocal);
    _mm256_storeu_ps(out.ratio, _mm256_mul_ps(from_f16(stored), reciprocal));
    _mm256_storeu_si256(reinterpret_cast<I*>(out.stored), stored);
  }
};
