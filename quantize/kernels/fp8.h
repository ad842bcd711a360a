#pragma once
// 8-bit floats, F8_E4M3 ("FN": no infinity, 0x7f and 0xff are NaN, largest 448), with an f32 scale: x ~ value(code) x scale;
// and MXFP8, the same values with a power of two for each 32 of them (OCP Microscaling Formats 1.0).
//
// The quotient x / scale is rounded to nearest, ties to even, saturating at +-448, as in torch and compressed-tensors:
// clamp, then cast to torch.float8_e4m3fn. Round-off bound: |x - value x scale| <= max(|x| / 16, scale x 2^-10).
//
// This header has the formulas, for both g++ and nvcc; kernels only index, reduce and launch.

#include <cstdint>

#include "core/float_bits.h"
#include "core/host_device.h"
#include "quantize/kernels/int8.h"

namespace overproof {

inline constexpr float kF8E4M3Max = 448.0f;

/// The code of v, |v| <= 448; a zero keeps its sign. With e the power of two at or below |v|, no less than the 2^-6 where
/// subnormals begin, codes near v are e / 8 apart. The unit in the last place of e x 2^20 is that distance: adding it rounds v to a
/// code, and the integer difference counts the steps, 8 to 16 of them (0 to 8 for subnormals), into the binade of e.
OVERPROOF_HD inline uint8_t f8_e4m3_code_in_range(float v) {
  const uint32_t bits = f32_bits(v), sign = bits & 0x80000000u;
  uint32_t e = bits & 0x7f800000u;
  e = e < 0x3c800000u ? 0x3c800000u : e;  // 2^-6
  const uint32_t magic = (e + (20u << 23)) | sign;
  const uint32_t steps = f32_bits(v + f32_from_bits(magic)) - magic;
  return uint8_t((sign >> 24) | (steps + (e >> 20) - (121u << 3)));
}

/// Round to nearest even, saturating. NaN becomes NaN.
OVERPROOF_HD inline uint8_t f32_to_f8_e4m3(float v) {
  if (magnitude_bits(v) > 0x7f800000u) return uint8_t(0x7fu | (f32_bits(v) >> 31 << 7));
  v = v > kF8E4M3Max ? kF8E4M3Max : v;
  v = v < -kF8E4M3Max ? -kF8E4M3Max : v;
  return f8_e4m3_code_in_range(v);
}

OVERPROOF_HD inline float fp8_scale(float amax) { return absmax_scale(amax, kF8E4M3Max); }
/// `scale` is positive and normal, x finite.
OVERPROOF_HD inline uint8_t fp8_code(float x, float scale) { return f32_to_f8_e4m3(x / scale); }
OVERPROOF_HD inline float fp8_value(uint8_t code, float scale) { return f8_e4m3_to_f32(code) * scale; }

/// MXFP8: values that share an exponent.
inline constexpr int64_t kMxGroup = 32;

/// The E8M0 byte of a group with largest finite magnitude `amax`, given as bits: 127 + floor(log2 amax) - 8, one more when amax
/// is 1.75 or more times its power of two, so that nothing is clipped. 0 for groups below 2^-118. It is what compressed-tensors'
/// generate_mx_scales computes (the OCP text leaves out the "one more" and clips).
OVERPROOF_HD inline uint8_t mxfp8_exponent(uint32_t amax_bits) {
  const int e = int((amax_bits + 0x200000u) >> 23) - 8;
  return uint8_t(e > 0 ? e : 0);
}
/// 2^(byte - 127); byte 255 (NaN) is never written.
OVERPROOF_HD inline float e8m0_value(uint8_t byte) { return f32_from_bits(byte == 0 ? 0x00400000u : uint32_t(byte) << 23); }
/// 1 / e8m0_value, exact. byte <= 253.
OVERPROOF_HD inline float e8m0_reciprocal(uint8_t byte) { return f32_from_bits((254u - byte) << 23); }

}  // namespace overproof
