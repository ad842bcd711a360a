#pragma once
// Shared by all row kernels: the order of the error sums, and the scalar code that is the reference and also the tail of the
// vector kernels.

#include <algorithm>
#include <cstdint>

#include "quantize/kernels/fp8.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/q8_0.h"
#include "quantize/kernels/row_kernels.h"

namespace overproof {

inline float to_f32(float x) { return x; }
inline float to_f32(uint16_t bf16) { return bf16_to_f32(bf16); }

/// Partial sums of squares, by lane.
struct ErrorLanes {
  float signal[kErrorLanes] = {}, noise[kErrorLanes] = {};
};

/// The fixed order in which lanes are added: a halving reduction, its first step in f32.
inline double add_half_lanes(const float* half) {
  return ((double(half[0]) + half[4]) + (double(half[2]) + half[6])) +
         ((double(half[1]) + half[5]) + (double(half[3]) + half[7]));
}
inline double add_lanes(const float* lane) {
  float half[kErrorLanes / 2];
  for (int i = 0; i < kErrorLanes / 2; ++i) half[i] = lane[i] + lane[i + kErrorLanes / 2];
  return add_half_lanes(half);
}
inline RowError add_lanes(const ErrorLanes& lanes) { return {add_lanes(lanes.signal), add_lanes(lanes.noise)}; }

/// Weights of up to kErrorGroups groups in one block of error sums: (scale / largest scale) squared.
struct GroupWeights {
  float largest = 0;
  float weight[kErrorGroups] = {};
};
inline GroupWeights group_weights(const float* scales, int64_t groups) {
  GroupWeights w;
  for (int64_t g = 0; g < groups; ++g) w.largest = std::max(w.largest, scales[g]);
  const float reciprocal = w.largest >= 0x1p-126f ? 1.0f / w.largest : 0.0f;
  for (int64_t g = 0; g < groups; ++g) {
    const float part = scales[g] * reciprocal;
    w.weight[g] = part * part;
  }
  return w;
}

/// Lanes of several groups, folded and weighted.
struct GroupLanes {
  float signal[kErrorLanes / 2] = {}, noise[kErrorLanes / 2] = {};
};
inline void add_group(GroupLanes& sums, const ErrorLanes& lanes, float weight) {
  for (int i = 0; i < kErrorLanes / 2; ++i) {
    sums.signal[i] += (lanes.signal[i] + lanes.signal[i + kErrorLanes / 2]) * weight;
    sums.noise[i] += (lanes.noise[i] + lanes.noise[i + kErrorLanes / 2]) * weight;
  }
}

/// Converts sums in steps to sums in units of the weights.
inline RowError in_units(const RowError& steps, float scale) {
  const double square = double(scale) * scale;
  return {steps.signal * square, steps.noise * square};
}

inline void add_square(ErrorLanes& lanes, int64_t i, float steps, float error) {
  lanes.signal[i % kErrorLanes] += steps * steps;
  lanes.noise[i % kErrorLanes] += error * error;
}

template <class In>
uint32_t scalar_amax_bits(const In* x, int64_t n) {
  uint32_t amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, magnitude_bits(to_f32(x[i])));
  return amax;
}

template <class In>
void scalar_int8(const In* x, int64_t n, float scale, uint8_t* codes, uint8_t flip, ErrorLanes& lanes) {
  const float reciprocal = 1.0f / scale;
  for (int64_t i = 0; i < n; ++i) {
    const int8_t code = int8_code(to_f32(x[i]), scale);
    codes[i] = uint8_t(code) ^ flip;
    const float steps = to_f32(x[i]) * reciprocal;
    add_square(lanes, i, steps, steps - float(code));
  }
}

/// `reciprocal` is a parameter because that of an E8M0 scale is exact even where the scale is subnormal.
template <class In>
void scalar_fp8(const In* x, int64_t n, float scale, float reciprocal, uint8_t* codes, ErrorLanes& lanes) {
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = fp8_code(to_f32(x[i]), scale);
    const float steps = to_f32(x[i]) * reciprocal;
    add_square(lanes, i, steps, steps - f8_e4m3_to_f32(codes[i]));
  }
}

}  // namespace overproof
