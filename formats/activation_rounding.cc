#include "formats/activation_rounding.h"

#include <algorithm>

#include "core/float_bits.h"
#include "core/parallel.h"

namespace overproof {
namespace {

constexpr float kEpsilon = 0x1p-23f;  ///< the scale that compressed-tensors uses instead of zero
constexpr float kFp8Largest = 448.0f;

/// Adding and taking away 1.5 x 2^23 rounds |x| < 2^22 to an integer, ties to even, as the vector units do it.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

inline float clip(float x, float least, float most) { return x < least ? least : x > most ? most : x; }

/// The nearest E4M3 value of |x| <= 448: three bits after the leading one, below 2^-6 a fixed step of 2^-9.
inline float round_e4m3(float x) {
  const int exponent = std::max(int((f32_bits(x) >> 23) & 0xffu) - 127, -6);
  const float step = f32_from_bits(uint32_t(exponent - 3 + 127) << 23);
  return round_even(x / step) * step;
}

struct Grid {
  float scale, zero_point;
};

Grid dynamic_grid(const ActivationRounding& r, const float* x, int64_t n) {
  float least = 0.0f, largest = 0.0f;  // zero is always inside
  for (int64_t i = 0; i < n; ++i) {
    least = std::min(least, x[i]);
    largest = std::max(largest, x[i]);
  }
  const float amax = std::max(-least, largest);
  if (r.power_of_two) {
    // Adding a quarter of the mantissa carries into the exponent from 1.75 on. A biased exponent of 1 is the least normal scale.
    const int exponent = int((f32_bits(amax) + (1u << 21)) >> 23) - 8;
    return {f32_from_bits(uint32_t(std::clamp(exponent, 1, 254)) << 23), 0.0f};
  }
  if (r.type == ActivationRounding::Type::fp8) return {amax == 0.0f ? kEpsilon : amax / kFp8Largest, 0.0f};
  if (r.symmetric) return {amax == 0.0f ? kEpsilon : amax / 127.5f, 0.0f};
  const float scale = (largest - least) / 255.0f;
  if (scale == 0.0f) return {kEpsilon, -128.0f};
  return {scale, round_even(clip(-128.0f - least / scale, -128.0f, 127.0f))};
}

void round_values(const ActivationRounding& r, const Grid& grid, float* x, int64_t n) {
  if (r.type == ActivationRounding::Type::fp8) {
    for (int64_t i = 0; i < n; ++i) x[i] = round_e4m3(clip(x[i] / grid.scale, -kFp8Largest, kFp8Largest)) * grid.scale;
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    x[i] = (round_even(clip(x[i] / grid.scale + grid.zero_point, -128.0f, 127.0f)) - grid.zero_point) * grid.scale;
}

}  // namespace

void ActivationRounding::apply(float* x, int64_t rows, int64_t columns) const {
  const int64_t width = group > 0 && !is_static ? group : columns;
  parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < columns; c += width) {
        float* part = x + r * columns + c;
        const int64_t n = std::min(width, columns - c);
        round_values(*this, is_static ? Grid{scale, zero_point} : dynamic_grid(*this, part, n), part, n);
      }
  });
}

}  // namespace overproof
