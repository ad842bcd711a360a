// The scalar reference of the row operations, and the choice of kernels at run time.

#include "quantize/kernels/row_kernels.h"

#include <atomic>
#include <cstring>

#include "quantize/kernels/row_sums.h"

namespace overproof {
namespace {

template <class In>
void amax_groups(const In* x, int64_t n, int64_t group, uint32_t* amax) {
  for (; n > 0; n -= group, x += group, ++amax) *amax = std::max(*amax, scalar_amax_bits(x, std::min(n, group)));
}

/// `quantize(x, n, scale, codes, lanes)` for each block of error sums within each group.
template <class In, class Quantize>
RowError in_groups(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes, Quantize&& quantize) {
  RowError sum;
  for (int64_t at = 0; at < n; at += group) {
    const int64_t end = std::min(n, at + group);
    const float scale = *scales++;
    RowError own;
    for (int64_t begin = at; begin < end; begin += kErrorBlock) {
      ErrorLanes lanes;
      quantize(x + begin, std::min(kErrorBlock, end - begin), scale, codes + begin, lanes);
      own += add_lanes(lanes);
    }
    sum += in_units(own, scale);
  }
  return sum;
}

template <class In>
RowError int8_groups(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes, uint8_t flip) {
  return in_groups(x, n, group, scales, codes,
                   [flip](const In* from, int64_t count, float scale, uint8_t* to, ErrorLanes& lanes) {
                     scalar_int8(from, count, scale, to, flip, lanes);
                   });
}

template <class In>
RowError fp8_groups(const In* x, int64_t n, int64_t group, const float* scales, uint8_t* codes) {
  return in_groups(x, n, group, scales, codes, [](const In* from, int64_t count, float scale, uint8_t* to, ErrorLanes& lanes) {
    scalar_fp8(from, count, scale, 1.0f / scale, to, lanes);
  });
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
constexpr InputKernels<In> kScalar = {amax_groups<In>, int8_groups<In>, fp8_groups<In>, mxfp8_row<In>, q8_0_row<In>};

std::atomic<const RowKernels*>& chosen() {
  static std::atomic<const RowKernels*> kernels = all_row_kernels().back();
  return kernels;
}

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

const RowKernels& row_kernels() { return *chosen().load(std::memory_order_relaxed); }

void use_row_kernels(const RowKernels& kernels) { chosen() = &kernels; }

}  // namespace overproof
