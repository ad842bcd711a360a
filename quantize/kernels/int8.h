#pragma once
// Symmetric int8 with one scale per row or group of columns (a row of a Linear weight is an output channel): x ~ q x scale,
// q in [-127, 127]. The code -128 is not used, so that -q always exists and pairs of products fit the 16 bits of vpmaddubsw.
//
// Division, not multiplication by a reciprocal: compressed-tensors divides, and the quotient is rounded only
// once. Round-off bound: |x - q x scale| <= scale / 2 for |x| <= 127 x scale, up to the rounding of quotient and product (2^-16
// of a step).
//
// This header has the formulas, for both g++ and nvcc, tested on the CPU; the CPU kernels (row_kernels.h)
// and CUDA kernels only index, reduce and launch.

#include <cstdint>

#include "core/float_bits.h"
#include "core/host_device.h"

namespace overproof {

inline constexpr float kInt8Max = 127.0f;

/// |x| as bits. For finite numbers, infinity and NaN these order as integers do, so an integer maximum over a row finds
/// the largest magnitude and keeps a NaN.
OVERPROOF_HD inline uint32_t magnitude_bits(float x) { return f32_bits(x) & 0x7fffffffu; }

/// True for the magnitude of an infinity or a NaN: such a row has no scale.
OVERPROOF_HD inline bool is_not_finite(uint32_t magnitude) { return magnitude >= 0x7f800000u; }

/// amax / code_max, the scale of values whose largest finite magnitude is `amax`. Zeros, and values so small that their scale
/// would be subnormal, get scale 1 and only codes 0, so that scales and their reciprocals are always normal.
OVERPROOF_HD inline float absmax_scale(float amax, float code_max) {
  const float scale = amax / code_max;
  return scale >= 0x1p-126f ? scale : 1.0f;
}
OVERPROOF_HD inline float int8_scale(float amax) { return absmax_scale(amax, kInt8Max); }

/// x / scale, clipped and rounded to nearest, ties to even. `scale` is positive and normal, x finite.
OVERPROOF_HD inline int8_t int8_code(float x, float scale) {
  float v = x / scale;
  v = v > kInt8Max ? kInt8Max : v;
  v = v < -kInt8Max ? -kInt8Max : v;
  // The unit in the last place of 1.5 x 2^23 is one: the addition rounds, and the low byte is the code.
  return int8_t(uint8_t(f32_bits(v + 12582912.0f)));
}

OVERPROOF_HD inline float int8_value(int8_t code, float scale) { return float(code) * scale; }

/// Clipping to a fraction of amax saturates a few weights, for a finer grid. Candidates are amax x (1 - i / 128).
inline constexpr int kClipCandidates = 32;
OVERPROOF_HD inline float clip_candidate(float amax, int i) { return amax * (1.0f - float(i) * 0x1p-7f); }

}  // namespace overproof
