// The scalar reference of the row operations, and the choice among the kernels.

#include "quantize/row_kernels.h"

#include <cstring>

#include "quantize/row_sums.h"

namespace overproof {
namespace {

template <class In>
RowError int8_row(const In* x, int64_t n, float scale, uint8_t* codes, uint8_t flip) {
  RowError sum;
  for (int64_t begin = 0; begin < n; begin += kErrorBlock) {
    ErrorLanes lanes;
    scalar_int8(x + begin, std::min(kErrorBlock, n - begin), scale, codes + begin, flip, lanes);
    sum += add_lanes(lanes);
  }
  return in_units(sum, scale);
}

template <class In>
RowError fp8_row(const In* x, int64_t n, float scale, uint8_t* codes) {
  RowError sum;
  for (int64_t begin = 0; begin < n; begin += kErrorBlock) {
    ErrorLanes lanes;
    scalar_fp8(x + begin, std::min(kErrorBlock, n - begin), scale, 1.0f / scale, codes + begin, lanes);
    sum += add_lanes(lanes);
  }
  return in_units(sum, scale);
}

template <class In>
bool mxfp8_row(const In* x, int64_t n, uint8_t* codes, uint8_t* exponents, RowError& error) {
  for (; n > 0; n -= kErrorBlock, x += kErrorBlock, codes += kErrorBlock, exponents += kErrorGroups) {
    const int64_t groups = std::min<int64_t>(n / kMxGroup, kErrorGroups);
    float scales[kErrorGroups];
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t amax = scalar_amax_bits(x + g * kMxGroup, kMxGroup);
      if (is_not_finite(amax)) return false;
      exponents[g] = mxfp8_exponent(amax);
      scales[g] = e8m0_value(exponents[g]);
    }
    const GroupWeights weights = group_weights(scales, groups);
    GroupLanes sums;
    for (int64_t g = 0; g < groups; ++g) {
      ErrorLanes lanes;
      scalar_fp8(x + g * kMxGroup, kMxGroup, scales[g], e8m0_reciprocal(exponents[g]), codes + g * kMxGroup, lanes);
      add_group(sums, lanes, weights.weight[g]);
    }
    error += in_units({add_half_lanes(sums.signal), add_half_lanes(sums.noise)}, weights.largest);
  }
  return true;
}

template <class In>
bool q8_0_row(const In* x, int64_t n, uint8_t* blocks, RowError& error) {
  for (; n > 0; n -= kErrorBlock, x += kErrorBlock, blocks += kErrorGroups * kQ8Bytes) {
    const int64_t groups = std::min<int64_t>(n / kQ8Values, kErrorGroups);
    float d[kErrorGroups];
    Q8Scale scales[kErrorGroups];
    for (int64_t g = 0; g < groups; ++g) {
      const float amax = f32_from_bits(scalar_amax_bits(x + g * kQ8Values, kQ8Values));
      if (!(amax < kQ8TooLarge)) return false;
      scales[g] = q8_0_scale(amax);
      d[g] = scales[g].d;
    }
    const GroupWeights weights = group_weights(d, groups);
    GroupLanes sums;
    for (int64_t g = 0; g < groups; ++g) {
      uint8_t* block = blocks + g * kQ8Bytes;
      std::memcpy(block, &scales[g].stored, 2);
      ErrorLanes lanes;
      for (int64_t i = 0; i < kQ8Values; ++i) {
        const float value = to_f32(x[g * kQ8Values + i]), steps = value * scales[g].reciprocal;
        const int8_t code = q8_0_code(value, scales[g].reciprocal);
        block[2 + i] = uint8_t(code);
        add_square(lanes, i, steps, steps - float(code) * scales[g].ratio);
      }
      add_group(sums, lanes, weights.weight[g]);
    }
    error += in_units({add_half_lanes(sums.signal), add_half_lanes(sums.noise)}, weights.largest);
  }
  return true;
}

template <class In>
constexpr InputKernels<In> kScalar = {scalar_amax_bits<In>, int8_row<In>, fp8_row<In>, mxfp8_row<In>, q8_0_row<In>};

}  // namespace

const RowKernels& scalar_row_kernels() {
  static const RowKernels kernels{"scalar", kScalar<float>, kScalar<uint16_t>};
  return kernels;
}

std::vector<const RowKernels*> all_row_kernels() {
  std::vector<const RowKernels*> list = {&scalar_row_kernels()};
  for (const RowKernels* kernels : {avx2_row_kernels(), avx512_row_kernels()})
    if (kernels != nullptr) list.push_back(kernels);
  return list;
}

const RowKernels& row_kernels() {
  static const RowKernels& best = *all_row_kernels().back();
  return best;
}

}  // namespace overproof
