#include "quantize/int8_cpu.h"

#include <algorithm>

#include "core/error.h"
#include "quantize/int8.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace overproof {
namespace {

constexpr int kLanes = 8;

/// The fixed order in which lanes are added: that of a halving reduction.
double add_lanes(const float* lane) {
  return ((double(lane[0]) + lane[4]) + (double(lane[2]) + lane[6])) + ((double(lane[1]) + lane[5]) + (double(lane[3]) + lane[7]));
}

uint32_t scalar_amax_bits(const float* row, int64_t n) {
  uint32_t amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, magnitude_bits(row[i]));
  return amax;
}

/// The first `n` elements of a block, as the reference: also the tail of the AVX2 kernel.
void scalar_block(const float* row, int64_t n, float scale, float reciprocal, int8_t* codes, float* signal, float* noise) {
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = int8_code(row[i], scale);
    const float steps = row[i] * reciprocal, error = steps - float(codes[i]);
    signal[i % kLanes] += steps * steps;
    noise[i % kLanes] += error * error;
  }
}

/// Sums in steps become sums in units of the weights.
RowError in_units(const RowError& steps, float scale) {
  const double square = double(scale) * scale;
  return {steps.signal * square, steps.noise * square};
}

RowError scalar_quantize(const float* row, int64_t n, float scale, int8_t* codes) {
  const float reciprocal = 1.0f / scale;
  RowError sum;
  for (int64_t begin = 0; begin < n; begin += kErrorBlock) {
    float signal[kLanes] = {}, noise[kLanes] = {};
    scalar_block(row + begin, std::min(kErrorBlock, n - begin), scale, reciprocal, codes + begin, signal, noise);
    sum += {add_lanes(signal), add_lanes(noise)};
  }
  return in_units(sum, scale);
}

#if defined(__x86_64__)
#define OVERPROOF_AVX2 __attribute__((target("avx2")))

OVERPROOF_AVX2 uint32_t avx2_amax_bits(const float* row, int64_t n) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i a = _mm256_setzero_si256(), b = a;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {  // two chains hide the latency of the maximum
    a = _mm256_max_epu32(a, _mm256_and_si256(mask, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i))));
    b = _mm256_max_epu32(b, _mm256_and_si256(mask, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i + 8))));
  }
  uint32_t lane[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane), _mm256_max_epu32(a, b));
  return std::max(*std::max_element(lane, lane + kLanes), scalar_amax_bits(row + i, n - i));
}

/// The code of int8.h is the rounded quotient x / scale. Division is slow, and x times the reciprocal is within 127 x 2^-22 of
/// the quotient: only where it is nearer than that to a tie, or clipped, can the codes differ.
constexpr float kSureOfRounding = 0.4999f;

struct Avx2Row {
  __m256 scale, reciprocal;
};

/// Eight codes as 32-bit integers, and their part of the error sums.
OVERPROOF_AVX2 inline __m256i avx2_codes(const float* x, const Avx2Row& row, __m256& signal, __m256& noise) {
  const __m256 value = _mm256_loadu_ps(x), steps = _mm256_mul_ps(value, row.reciprocal);
  __m256i code = _mm256_cvtps_epi32(steps);  // to nearest, ties to even: the default rounding mode
  __m256 error = _mm256_sub_ps(steps, _mm256_cvtepi32_ps(code));
  const __m256 limit = _mm256_set1_ps(kInt8Max), magnitude = _mm256_set1_ps(-0.0f);
  const __m256 unsure = _mm256_or_ps(_mm256_cmp_ps(_mm256_andnot_ps(magnitude, error), _mm256_set1_ps(kSureOfRounding), _CMP_GT_OQ),
                                     _mm256_cmp_ps(_mm256_andnot_ps(magnitude, steps), limit, _CMP_GT_OQ));
  if (_mm256_movemask_ps(unsure) != 0) [[unlikely]] {
    const __m256 quotient = _mm256_div_ps(value, row.scale);
    code = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(quotient, limit), _mm256_set1_ps(-kInt8Max)));
    error = _mm256_sub_ps(steps, _mm256_cvtepi32_ps(code));
  }
  signal = _mm256_add_ps(signal, _mm256_mul_ps(steps, steps));
  noise = _mm256_add_ps(noise, _mm256_mul_ps(error, error));
  return code;
}

OVERPROOF_AVX2 RowError avx2_quantize(const float* row, int64_t n, float scale, int8_t* codes) {
  const float reciprocal = 1.0f / scale;
  const Avx2Row scales{_mm256_set1_ps(scale), _mm256_set1_ps(reciprocal)};
  // The packs work within 128-bit halves; this puts the eight groups of four codes back in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  RowError sum;
  for (int64_t begin = 0; begin < n; begin += kErrorBlock) {
    const float* x = row + begin;
    const int64_t count = std::min(kErrorBlock, n - begin);
    __m256 signal = _mm256_setzero_ps(), noise = signal;
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
      const __m256i a = avx2_codes(x + i, scales, signal, noise), b = avx2_codes(x + i + 8, scales, signal, noise);
      const __m256i c = avx2_codes(x + i + 16, scales, signal, noise), d = avx2_codes(x + i + 24, scales, signal, noise);
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + begin + i), _mm256_permutevar8x32_epi32(bytes, order));
    }
    float signal_lane[kLanes], noise_lane[kLanes];
    _mm256_storeu_ps(signal_lane, signal);
    _mm256_storeu_ps(noise_lane, noise);
    scalar_block(x + i, count - i, scale, reciprocal, codes + begin + i, signal_lane, noise_lane);  // i is a multiple of the lanes
    sum += {add_lanes(signal_lane), add_lanes(noise_lane)};
  }
  return in_units(sum, scale);
}
#endif

}  // namespace

const Int8Kernel& int8_scalar_kernel() {
  static const Int8Kernel kernel{"scalar", scalar_amax_bits, scalar_quantize};
  return kernel;
}

const Int8Kernel* int8_avx2_kernel() {
#if defined(__x86_64__)
  static const Int8Kernel kernel{"avx2", avx2_amax_bits, avx2_quantize};
  static const bool supported = __builtin_cpu_supports("avx2");
  return supported ? &kernel : nullptr;
#else
  return nullptr;
#endif
}

const Int8Kernel& int8_kernel() {
  const Int8Kernel* fast = int8_avx2_kernel();
  return fast != nullptr ? *fast : int8_scalar_kernel();
}

Int8Row quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Int8Scale how, const Int8Kernel& kernel) {
  OVERPROOF_CHECK(row.size() == codes.size());
  const int64_t n = int64_t(row.size());
  Int8Row result;
  const uint32_t magnitude = kernel.amax_bits(row.data(), n);
  if (is_not_finite(magnitude)) {
    result.finite = false;
    return result;
  }
  const float amax = f32_from_bits(magnitude);
  result.scale = int8_scale(amax);
  result.error = kernel.quantize(row.data(), n, result.scale, codes.data());
  if (how == Int8Scale::absmax || result.error.noise == 0) return result;

  int best = 0;
  for (int i = 1; i < kInt8ClipCandidates; ++i) {
    const float scale = int8_scale(int8_clip_candidate(amax, i));
    const RowError error = kernel.quantize(row.data(), n, scale, codes.data());
    if (error.noise < result.error.noise) {
      result.scale = scale;
      result.error = error;
      best = i;
    }
  }
  if (best != kInt8ClipCandidates - 1) kernel.quantize(row.data(), n, result.scale, codes.data());  // the winner's codes
  return result;
}

}  // namespace overproof
