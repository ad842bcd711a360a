#pragma once
// bf16, f16 and the two OCP fp8 types as bits. All conversions to the narrow type round to nearest, ties to even.
// Sources: IEEE 754-2019; OCP 8-bit Floating Point Specification (OFP8) 1.0.

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace overproof {

OVERPROOF_HD inline uint32_t f32_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
OVERPROOF_HD inline float f32_from_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

OVERPROOF_HD inline float bf16_to_f32(uint16_t h) { return f32_from_bits(uint32_t(h) << 16); }

OVERPROOF_HD inline uint16_t f32_to_bf16(float x) {
  const uint32_t u = f32_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);  // NaN stays NaN, made quiet
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

OVERPROOF_HD inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return f32_from_bits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return f32_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float subnormal = float(mantissa) * 0x1p-24f;  // exact
  return sign ? -subnormal : subnormal;
}

OVERPROOF_HD inline uint16_t f32_to_f16(float x) {
  const uint32_t u = f32_bits(x);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000u);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (a >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and above round to infinity
  if (a >= 0x38800000u) {                                 // normal in f16
    const uint32_t r = a + 0xfffu + ((a >> 13) & 1u);
    return uint16_t(sign | ((r - 0x38000000u) >> 13));
  }
  // Subnormal in f16: adding 0.5 puts the unit in the last place of the sum at 2^-24, and the hardware rounds.
  const float magic = f32_from_bits(a) + 0.5f;
  return uint16_t(sign | (f32_bits(magic) - 0x3f000000u));
}

/// F8_E4M3 (the "FN" variant: no infinity, 0x7f and 0xff are NaN, largest 448).
OVERPROOF_HD inline float f8_e4m3_to_f32(uint8_t v) {
  const uint32_t sign = uint32_t(v & 0x80u) << 24;
  const uint32_t exponent = (v >> 3) & 0xfu;
  const uint32_t mantissa = v & 7u;
  if (exponent == 15 && mantissa == 7) return f32_from_bits(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float s = float(mantissa) * 0x1p-9f;
    return sign ? -s : s;
  }
  return f32_from_bits(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

/// F8_E5M2 (IEEE-like: has infinities).
OVERPROOF_HD inline float f8_e5m2_to_f32(uint8_t v) { return f16_to_f32(uint16_t(uint16_t(v) << 8)); }

}  // namespace overproof
