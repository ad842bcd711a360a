// The vector kernels, written once for all instruction sets. Not a stand-alone header: row_kernels_avx2.cc and row_kernels_avx512.cc
// include it inside their anonymous namespace, after defining OVERPROOF_SIMD (the target attribute, which lambdas and plain
// functions would lack) and `struct Simd`, whose functions are single instructions on kWidth lanes.
//
// Codes are those of the rounded quotient x / scale. Division is slow, and x times the reciprocal is within 2^-22 of the
// quotient, relatively: only where that is nearer than this to a tie between two codes can the codes differ. Such vectors
// divide. The reciprocal of a power of two is exact, so these do not divide; true ties are common only there.

using F = Simd::F;
using I = Simd::I;

/// Distance from a code, in steps between codes, up to which the rounding is certain. 0.4999 leaves 1e-4, and 127 x 2^-22 is
/// 3e-5.
constexpr float kSureOfRounding = 0.4999f;
constexpr int kStride = 32;                       ///< elements processed at a time
constexpr int kVectors = kStride / Simd::kWidth;  ///< vectors that hold them
constexpr int kSums = kErrorLanes / Simd::kWidth;

struct Sums {
  F signal[kSums], noise[kSums];
};

OVERPROOF_SIMD inline void clear(Sums& sums) {
  for (int i = 0; i < kSums; ++i) sums.signal[i] = sums.noise[i] = Simd::set(0.0f);
}

OVERPROOF_SIMD inline void add_squares(Sums& sums, const F* steps, const F* error) {
  for (int v = 0; v < kVectors; ++v) {
    sums.signal[v % kSums] = Simd::add(sums.signal[v % kSums], Simd::mul(steps[v], steps[v]));
    sums.noise[v % kSums] = Simd::add(sums.noise[v % kSums], Simd::mul(error[v], error[v]));
  }
}

/// add_lanes of row_sums.h.
OVERPROOF_SIMD inline RowError total(const Sums& sums) {
  return {Half::add_lanes(Simd::fold(sums.signal)), Half::add_lanes(Simd::fold(sums.noise))};
}

OVERPROOF_SIMD inline F clamp(F v, float limit) { return Simd::max(Simd::min(v, Simd::set(limit)), Simd::set(-limit)); }
OVERPROOF_SIMD inline F magnitude(F v) { return Simd::as_f(Simd::and_(Simd::as_i(v), Simd::set(0x7fffffff))); }

/// Scale of a row, spread over lanes.
struct Scale {
  F scale, reciprocal;
};
OVERPROOF_SIMD inline Scale spread(float scale, float reciprocal) { return {Simd::set(scale), Simd::set(reciprocal)}; }

/// int8 codes of kStride values, and their part of the sums. Clipped values take the slow path; they are rare.
template <bool kExact, class In>
OVERPROOF_SIMD inline void int8_stride(const In* x, const Scale& scale, uint8_t* codes, I flip, Sums& sums) {
  F steps[kVectors], error[kVectors];
  I code[kVectors];
  F doubt = Simd::set(0.0f);
  for (int v = 0; v < kVectors; ++v) {
    steps[v] = Simd::mul(Simd::load(x + v * Simd::kWidth), scale.reciprocal);
    code[v] = Simd::round(clamp(steps[v], kInt8Max));
    error[v] = Simd::sub(steps[v], Simd::to_f(code[v]));
    if (!kExact) doubt = Simd::max(doubt, magnitude(error[v]));
  }
  if (!kExact && Simd::any_above(doubt, kSureOfRounding)) [[unlikely]]
    for (int v = 0; v < kVectors; ++v) {
      code[v] = Simd::round(clamp(Simd::div(Simd::load(x + v * Simd::kWidth), scale.scale), kInt8Max));
      error[v] = Simd::sub(steps[v], Simd::to_f(code[v]));
    }
  add_squares(sums, steps, error);
  Simd::store_bytes(codes, code, flip);
}

struct Rounded {
  F value;  ///< the nearest F8_E4M3
  I code;   ///< its code
  F step;   ///< 8 times the distance between codes around it
};

/// f8_e4m3_code_in_range of fp8.h for values in [0, 448].
OVERPROOF_SIMD inline Rounded round_fp8(F v) {
  const I e = Simd::max_unsigned(Simd::and_(Simd::as_i(v), Simd::set(0x7f800000)), Simd::set(0x3c800000));
  const I magic = Simd::add(e, Simd::set(20 << 23));
  const F sum = Simd::add(v, Simd::as_f(magic));
  const I steps = Simd::sub(Simd::as_i(sum), magic);
  return {Simd::sub(sum, Simd::as_f(magic)), Simd::add(steps, Simd::add(Simd::shift_right<20>(e), Simd::set(-(121 << 3)))),
          Simd::as_f(e)};
}

/// F8_E4M3 codes of kStride values and their part of the sums. Signs are added at the end: squares do not need them.
template <bool kExact, class In>
OVERPROOF_SIMD inline void fp8_stride(const In* x, const Scale& scale, uint8_t* codes, Sums& sums) {
  F steps[kVectors], error[kVectors];
  I code[kVectors], sign[kVectors];
  const F largest = Simd::set(kF8E4M3Max);
  F doubt = Simd::set(0.0f);
  for (int v = 0; v < kVectors; ++v) {
    const F value = Simd::load(x + v * Simd::kWidth);
    sign[v] = Simd::as_i(value);
    steps[v] = magnitude(Simd::mul(value, scale.reciprocal));
    const Rounded made = round_fp8(Simd::min(steps[v], largest));
    code[v] = made.code;
    error[v] = Simd::sub(steps[v], made.value);
    if (!kExact) doubt = Simd::max(doubt, Simd::sub(magnitude(error[v]), Simd::mul(made.step, Simd::set(kSureOfRounding / 8))));
  }
  if (!kExact && Simd::any_above(doubt, 0.0f)) [[unlikely]]
    for (int v = 0; v < kVectors; ++v) {
      const Rounded made = round_fp8(Simd::min(magnitude(Simd::div(Simd::load(x + v * Simd::kWidth), scale.scale)), largest));
      code[v] = made.code;
      error[v] = Simd::sub(steps[v], made.value);
    }
  add_squares(sums, steps, error);
  Simd::store_bytes_with_signs(codes, code, sign);
}

/// Sums of the vector part and the rest of a block: i, where the rest begins, is a multiple of the lanes.
OVERPROOF_SIMD inline ErrorLanes spill(const Sums& sums) {
  ErrorLanes lanes;
  for (int i = 0; i < kSums; ++i) {
    Simd::store(lanes.signal + i * Simd::kWidth, sums.signal[i]);
    Simd::store(lanes.noise + i * Simd::kWidth, sums.noise[i]);
  }
  return lanes;
}

bool is_power_of_two(float scale) { return (f32_bits(scale) & 0x7fffffu) == 0; }

/// Converts one stride: the only part in which the formats differ.
struct ToInt8 {
  uint8_t flip;
  template <bool kExact, class In>
  OVERPROOF_SIMD void stride(const In* x, const Scale& scale, uint8_t* codes, Sums& sums) const {
    int8_stride<kExact>(x, scale, codes, Simd::set(int(flip * 0x01010101u)), sums);
  }
  template <class In>
  void rest(const In* x, int64_t n, float scale, uint8_t* codes, ErrorLanes& lanes) const {
    scalar_int8(x, n, scale, codes, flip, lanes);
  }
};
struct ToFp8 {
  template <bool kExact, class In>
  OVERPROOF_SIMD void stride(const In* x, const Scale& scale, uint8_t* codes, Sums& sums) const {
    fp8_stride<kExact>(x, scale, codes, sums);
  }
  template <class In>
  void rest(const In* x, int64_t n, float scale, uint8_t* codes, ErrorLanes& lanes) const {
    scalar_fp8(x, n, scale, 1.0f / scale, codes, lanes);
  }
};

/// n values with one scale.
template <bool kExact, class To, class In>
OVERPROOF_SIMD inline RowError one_group(const To& to, const In* x, int64_t n, float scale, float reciprocal, uint8_t* codes) {
  const Scale spread_scale = spread(scale, reciprocal);
  RowError sum;
  for (int64_t begin = 0; begin < n; begin += kErrorBlock) {
    const int64_t count = std::min(kErrorBlock, n - begin);
    Sums sums;
    clear(sums);
    int64_t i = 0;
    for (; i + kStride <= count; i += kStride) to.template stride<kExact>(x + begin + i, spread_scale, codes + begin + i, sums);
    if (i == count) {
      sum += total(sums);
      continue;
    }
    ErrorLanes lanes = spill(sums);
    to.rest(x + begin + i, count - i, scale, codes + begin + i, lanes);
    sum += add_lanes(lanes);
  }
  return in_units(sum, scale);
}

template <class To, class In>
OVERPROOF_SIMD RowError in_groups(const To& to, const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes) {
  RowError sum;
  float next = 1.0f / *scales;
  for (int64_t at = 0; at < n; at += group, ++scales) {
    const int64_t count = std::min(group, n - at);
    const float scale = *scales, reciprocal = next;
    if (at + count < n) next = 1.0f / scales[1];  // early, to hide the latency of the division
    sum += is_power_of_two(scale) ? one_group<true>(to, x + at, count, scale, reciprocal, codes + at)
                                  : one_group<false>(to, x + at, count, scale, reciprocal, codes + at);
  }
  return sum;
}

template <class In>
RowError int8_groups(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes, uint8_t flip) {
  return in_groups(ToInt8{flip}, x, n, group, scales, codes);
}
template <class In>
RowError fp8_groups(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes) {
  return in_groups(ToFp8{}, x, n, group, scales, codes);
}

/// Largest magnitude of kStride values, as bits.
OVERPROOF_SIMD inline uint32_t stride_amax_bits(const float* x) {
  I amax = Simd::set(0);
  for (int v = 0; v < kVectors; ++v)
    amax = Simd::max_unsigned(amax, Simd::and_(Simd::as_i(Simd::load(x + v * Simd::kWidth)), Simd::set(0x7fffffff)));
  return Simd::max_of_lanes(amax);
}
OVERPROOF_SIMD inline uint32_t stride_amax_bits(const uint16_t* x) { return Simd::amax_of_32(x) << 16; }

OVERPROOF_SIMD inline uint32_t amax_bits(const float* x, int64_t n) {
  const I mask = Simd::set(0x7fffffff);
  I amax[kVectors];
  for (int v = 0; v < kVectors; ++v) amax[v] = Simd::set(0);
  int64_t i = 0;
  for (; i + kStride <= n; i += kStride)  // several chains hide the latency of the maximum
    for (int v = 0; v < kVectors; ++v)
      amax[v] = Simd::max_unsigned(amax[v], Simd::and_(Simd::as_i(Simd::load(x + i + v * Simd::kWidth)), mask));
  for (int v = 1; v < kVectors; ++v) amax[0] = Simd::max_unsigned(amax[0], amax[v]);
  return std::max(Simd::max_of_lanes(amax[0]), scalar_amax_bits(x + i, n - i));
}

OVERPROOF_SIMD inline uint32_t amax_bits(const uint16_t* x, int64_t n) {
  int64_t i = n / (4 * kStride) * (4 * kStride);
  uint32_t amax = Simd::amax_of_128s(x, i);
  for (; i + kStride <= n; i += kStride) amax = std::max(amax, Simd::amax_of_32(x + i));
  return std::max(amax << 16, scalar_amax_bits(x + i, n - i));
}

template <class In>
OVERPROOF_SIMD void amax_groups(const In* x, int64_t n, int64_t group, uint32_t* amax) {
  for (; n > 0; n -= group, x += group, ++amax) *amax = std::max(*amax, amax_bits(x, std::min(n, group)));
}

/// Largest magnitudes of up to kErrorGroups groups of kStride values, as bits; their maximum is returned.
template <class In>
OVERPROOF_SIMD inline uint32_t group_amax_bits(const In* x, int64_t groups, uint32_t* amax) {
  uint32_t most = 0;
  for (int64_t g = 0; g < groups; ++g) most = std::max(most, amax[g] = stride_amax_bits(x + g * kStride));
  return most;
}

/// add_group of row_sums.h.
struct GroupSums {
  Half::F signal, noise;
};
OVERPROOF_SIMD inline void clear(GroupSums& sums) { sums.signal = sums.noise = _mm256_setzero_ps(); }
OVERPROOF_SIMD inline void add_group(GroupSums& groups, const Sums& sums, float weight) {
  groups.signal = Half::add_weighed(groups.signal, Simd::fold(sums.signal), weight);
  groups.noise = Half::add_weighed(groups.noise, Simd::fold(sums.noise), weight);
}
OVERPROOF_SIMD inline RowError total(const GroupSums& groups) {
  return {Half::add_lanes(groups.signal), Half::add_lanes(groups.noise)};
}

template <class In>
OVERPROOF_SIMD bool mxfp8_row(const In* x, int64_t n, uint8_t* codes, uint8_t* exponents, RowError& error) {
  static_assert(kMxGroup == kStride);
  for (; n > 0; n -= kErrorBlock, x += kErrorBlock, codes += kErrorBlock, exponents += kErrorGroups) {
    const int64_t groups = std::min<int64_t>(n / kMxGroup, kErrorGroups);
    uint32_t amax[kErrorGroups];
    if (is_not_finite(group_amax_bits(x, groups, amax))) return false;
    float scales[kErrorGroups];
    for (int64_t g = 0; g < groups; ++g) {
      exponents[g] = mxfp8_exponent(amax[g]);
      scales[g] = e8m0_value(exponents[g]);
    }
    const GroupWeights weights = group_weights(scales, groups);
    GroupSums weighed;
    clear(weighed);
    for (int64_t g = 0; g < groups; ++g) {
      Sums sums;
      clear(sums);
      fp8_stride<true>(x + g * kMxGroup, spread(scales[g], e8m0_reciprocal(exponents[g])), codes + g * kMxGroup, sums);
      add_group(weighed, sums, weights.weight[g]);
    }
    error += in_units(total(weighed), weights.largest);
  }
  return true;
}

/// int8 codes of one Q8_0 block and their sums.
template <class In>
OVERPROOF_SIMD inline void q8_0_block(const In* x, const Half::Q8Scales& scales, int64_t g, uint8_t* block, Sums& sums) {
  std::memcpy(block, &scales.stored[g], 2);
  const F reciprocal = Simd::set(scales.reciprocal[g]), ratio = Simd::set(scales.ratio[g]);
  F steps[kVectors], error[kVectors];
  I code[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    steps[v] = Simd::mul(Simd::load(x + v * Simd::kWidth), reciprocal);
    const I half = Simd::or_(Simd::and_(Simd::as_i(steps[v]), Simd::set(int(0x80000000u))), Simd::set(0x3effffff));
    code[v] = Simd::truncate(Simd::add(steps[v], Simd::as_f(half)));
    error[v] = Simd::sub(steps[v], Simd::mul(Simd::to_f(code[v]), ratio));
  }
  add_squares(sums, steps, error);
  Simd::store_bytes(block + 2, code, Simd::set(0));
}

template <class In>
OVERPROOF_SIMD bool q8_0_row(const In* x, int64_t n, uint8_t* blocks, RowError& error) {
  static_assert(kQ8Values == kStride);
  for (; n > 0; n -= kErrorBlock, x += kErrorBlock, blocks += kErrorGroups * kQ8Bytes) {
    const int64_t groups = std::min<int64_t>(n / kQ8Values, kErrorGroups);
    uint32_t amax[kErrorGroups] = {};
    if (!(f32_from_bits(group_amax_bits(x, groups, amax)) < kQ8TooLarge)) return false;
    Half::Q8Scales scales;
    Half::q8_0_scales(amax, scales);
    const GroupWeights weights = group_weights(scales.d, groups);
    GroupSums weighed;
    clear(weighed);
    for (int64_t g = 0; g < groups; ++g) {
      Sums sums;
      clear(sums);
      q8_0_block(x + g * kQ8Values, scales, g, blocks + g * kQ8Bytes, sums);
      add_group(weighed, sums, weights.weight[g]);
    }
    error += in_units(total(weighed), weights.largest);
  }
  return true;
}

template <class In>
constexpr InputKernels<In> kKernels = {amax_groups<In>, int8_groups<In>, fp8_groups<In>, mxfp8_row<In>, q8_0_row<In>};
