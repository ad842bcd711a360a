#pragma once
// Symmetric fp8 E4M3 with one scale a tile: x ~ q x scale, q one of the 253 finite codes, the largest of which is 448.
// The formula, compiled by g++ and nvcc alike, as int8.h is for int8. Source of the code: OFP8 1.0; of the scale, amax / 448:
// compressed-tensors and DeepSeek-V3's fp8_cast, which both divide and then round to nearest, ties to even.

#include <cstdint>

#include "core/float_bits.h"
#include "core/host_device.h"

namespace overproof {

inline constexpr float kF8E4M3Max = 448.0f;

/// The scale of a tile whose largest finite magnitude is `amax`. Tiles of zeros, and tiles so small that their scale would be
/// subnormal (amax < 5.3e-36), get scale 1, and with it the code of zero throughout.
OVERPROOF_HD inline float f8_e4m3_scale(float amax) {
  const float scale = amax / kF8E4M3Max;
  return scale >= 0x1p-126f ? scale : 1.0f;
}

/// x / scale, clipped and rounded to nearest, ties to even. `scale` is positive and normal, x finite. Zero keeps its sign.
OVERPROOF_HD inline uint8_t f8_e4m3_code(float x, float scale) {
  float v = x / scale;
  v = v > kF8E4M3Max ? kF8E4M3Max : v;
  v = v < -kF8E4M3Max ? -kF8E4M3Max : v;
  return f32_to_f8_e4m3(v);
}

OVERPROOF_HD inline float f8_e4m3_value(uint8_t code, float scale) { return f8_e4m3_to_f32(code) * scale; }

}  // namespace overproof
