#pragma once
// ggml's Q8_0: 32 values as f16 d and 32 x int8, x ~ d x q. Byte for byte what llama.cpp's quantize_row_q8_0_ref writes
// (ggml/src/ggml-quants.c): d = amax / 127 and its reciprocal in f32, codes rounded ties away from zero with the f32 d,
// which is rounded to f16 afterwards. Groups so small that 1 / d overflows (amax < 4e-37) get zeros.
//
// This header has the formulas, for both g++ and nvcc; kernels only index, reduce and launch.

#include <cstdint>

#include "core/float_bits.h"
#include "core/host_device.h"

namespace overproof {

inline constexpr int64_t kQ8Values = 32;
inline constexpr int64_t kQ8Bytes = 34;  ///< f16 d, then the codes

struct Q8Scale {
  float d = 0;           ///< amax / 127
  float reciprocal = 0;  ///< 1 / d, or 0 when that is not finite
  uint16_t stored = 0;   ///< d as f16
  float ratio = 0;       ///< stored / d: the step of the stored codes, in units of d
};

/// `amax` is finite and below kQ8TooLarge.
OVERPROOF_HD inline Q8Scale q8_0_scale(float amax) {
  Q8Scale s;
  s.d = amax / 127.0f;
  const float reciprocal = s.d > 0 ? 1.0f / s.d : 0.0f;
  s.reciprocal = f32_bits(reciprocal) < 0x7f800000u ? reciprocal : 0.0f;
  s.stored = f32_to_f16(s.d);
  s.ratio = f16_to_f32(s.stored) * s.reciprocal;
  return s;
}

/// From this magnitude on, d rounds to an infinite f16.
inline constexpr float kQ8TooLarge = 65520.0f * 127.0f;

/// x times the reciprocal, rounded to nearest with ties away from zero, as roundf does. The largest float below a half added
/// with the sign of x before truncation does that exactly for all magnitudes below 2^22 (a half would lift 0.49999997 to 1).
OVERPROOF_HD inline int8_t q8_0_code(float x, float reciprocal) {
  const float v = x * reciprocal;
  const float half = f32_from_bits(0x3effffffu | (f32_bits(v) & 0x80000000u));
  return int8_t(int(v + half));
}

}  // namespace overproof
