#include "quantize/kernels/int8_cpu.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "quantize/kernels/block.h"
#include "quantize/kernels/fp8.h"
#include "quantize/kernels/int8.h"

namespace overproof {
namespace {

/// Finds the scale: scale_of(amax), or with clipping the candidate for which quantize(scale) returns the least error.
template <class ScaleOf, class Quantize>
ScaledRow search(uint32_t magnitude, Clipping how, ScaleOf&& scale_of, Quantize&& quantize) {
  ScaledRow result;
  if (is_not_finite(magnitude)) {
    result.finite = false;
    return result;
  }
  const float amax = f32_from_bits(magnitude);
  result.scale = scale_of(amax);
  result.error = quantize(result.scale);
  if (how == Clipping::absmax || result.error.noise == 0) return result;

  int best = 0;
  for (int i = 1; i < kClipCandidates; ++i) {
    const float scale = scale_of(clip_candidate(amax, i));
    const RowError error = quantize(scale);
    if (error.noise < result.error.noise) {
      result.scale = scale;
      result.error = error;
      best = i;
    }
  }
  if (best != kClipCandidates - 1) quantize(result.scale);  // the codes of the best scale
  return result;
}

template <class In>
ScaledRow int8_row(std::span<const In> x, std::span<int8_t> codes, Clipping how, const RowKernels& kernels, uint8_t flip) {
  OVERPROOF_CHECK(x.size() == codes.size());
  const InputKernels<In>& k = kernels.of<In>();
  const int64_t n = int64_t(x.size());
  return search(k.amax_bits(x.data(), n), how, int8_scale,
                [&](float scale) { return k.int8(x.data(), n, scale, reinterpret_cast<uint8_t*>(codes.data()), flip); });
}

}  // namespace

ScaledRow quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Clipping how, const RowKernels& kernels,
                            uint8_t flip) {
  return int8_row(row, codes, how, kernels, flip);
}
ScaledRow quantize_int8_row(std::span<const uint16_t> bf16, std::span<int8_t> codes, Clipping how, const RowKernels& kernels,
                            uint8_t flip) {
  return int8_row(bf16, codes, how, kernels, flip);
}

template <class In>
ScaledRow quantize_int8_groups(std::span<const In> row, int64_t group, std::span<int8_t> codes, float* scales, Clipping how,
                               const RowKernels& kernels, uint8_t flip) {
  OVERPROOF_CHECK(row.size() == codes.size() && row.size() % size_t(group) == 0);
  const InputKernels<In>& k = kernels.of<In>();
  const int64_t n = int64_t(row.size());
  auto* bytes = reinterpret_cast<uint8_t*>(codes.data());
  ScaledRow result;
  if (how == Clipping::mse) {
    for (int64_t at = 0; at < n; at += group) {
      const ScaledRow made =
          int8_row(row.subspan(size_t(at), size_t(group)), codes.subspan(size_t(at), size_t(group)), how, kernels, flip);
      scales[at / group] = made.scale;
      result.error += made.error;
      result.finite = result.finite && made.finite;
    }
    return result;
  }
  // Several groups at a time: first all their scales, then all their codes, so that no group waits for its scale.
  for (int64_t at = 0; at < n; at += kGroupsAtOnce * group) {
    const int64_t count = std::min(n - at, kGroupsAtOnce * group), groups = count / group;
    uint32_t amax[kGroupsAtOnce] = {};
    k.amax_groups(row.data() + at, count, group, amax);
    for (int64_t g = 0; g < groups; ++g) {
      if (is_not_finite(amax[g])) return {1.0f, {}, false};
      scales[at / group + g] = int8_scale(f32_from_bits(amax[g]));
    }
    result.error += k.int8_groups(row.data() + at, count, group, scales + at / group, bytes + at, flip);
  }
  return result;
}
template ScaledRow quantize_int8_groups(std::span<const float>, int64_t, std::span<int8_t>, float*, Clipping, const RowKernels&,
                                        uint8_t);
template ScaledRow quantize_int8_groups(std::span<const uint16_t>, int64_t, std::span<int8_t>, float*, Clipping,
                                        const RowKernels&, uint8_t);

namespace {

template <class In>
ScaledRow fp8_row(std::span<const In> x, std::span<uint8_t> codes, Clipping how, const RowKernels& kernels) {
  OVERPROOF_CHECK(x.size() == codes.size());
  const InputKernels<In>& k = kernels.of<In>();
  const int64_t n = int64_t(x.size());
  return search(k.amax_bits(x.data(), n), how, fp8_scale, [&](float scale) { return k.fp8(x.data(), n, scale, codes.data()); });
}

}  // namespace

ScaledRow quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, Clipping how, const RowKernels& kernels) {
  return fp8_row(row, codes, how, kernels);
}
ScaledRow quantize_fp8_row(std::span<const uint16_t> bf16, std::span<uint8_t> codes, Clipping how, const RowKernels& kernels) {
  return fp8_row(bf16, codes, how, kernels);
}

template <class In>
BlockRows quantize_fp8_blocks(const In* x, int64_t rows, int64_t columns, uint8_t* codes, float* scales, Clipping how,
                              const RowKernels& kernels) {
  const InputKernels<In>& k = kernels.of<In>();
  BlockRows result;
  // Whole rows, one after the other: a column of blocks would access memory in strides that map to few cache sets.
  std::vector<uint32_t> amax(size_t(blocks_of(columns)));
  for (int64_t r = 0; r < rows; ++r) k.amax_groups(x + r * columns, columns, kBlock, amax.data());
  if (is_not_finite(*std::max_element(amax.begin(), amax.end()))) {
    int64_t r = 0;
    while (!is_not_finite(k.amax_bits(x + r * columns, columns))) ++r;
    return {{}, r};
  }
  if (how == Clipping::mse) {
    for (int64_t b = 0; b < blocks_of(columns); ++b) {
      const auto block = [&](float scale) {
        RowError sum;
        for (int64_t r = 0; r < rows; ++r)
          sum += k.fp8(x + r * columns + b * kBlock, block_width(b, columns), scale, codes + r * columns + b * kBlock);
        return sum;
      };
      const ScaledRow made = search(amax[size_t(b)], how, fp8_scale, block);
      scales[b] = made.scale;
      result.error += made.error;
    }
    return result;
  }
  for (int64_t b = 0; b < blocks_of(columns); ++b) scales[b] = fp8_scale(f32_from_bits(amax[size_t(b)]));
  for (int64_t r = 0; r < rows; ++r) result.error += k.fp8_groups(x + r * columns, columns, kBlock, scales, codes + r * columns);
  return result;
}
template BlockRows quantize_fp8_blocks(const float*, int64_t, int64_t, uint8_t*, float*, Clipping, const RowKernels&);
template BlockRows quantize_fp8_blocks(const uint16_t*, int64_t, int64_t, uint8_t*, float*, Clipping, const RowKernels&);

}  // namespace overproof
