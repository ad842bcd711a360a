#include "quantize/int8_cpu.h"

#include <algorithm>

#include "core/error.h"
#include "quantize/fp8.h"
#include "quantize/int8.h"

namespace overproof {
namespace {

/// Looks for the scale: `scale_of(amax)`, then by `quantize(scale)`, which writes codes and returns their error.
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
  if (best != kClipCandidates - 1) quantize(result.scale);  // the winner's codes
  return result;
}

template <class In>
ScaledRow int8_row(std::span<const In> x, std::span<int8_t> codes, Clipping how, const RowKernels& kernels, uint8_t flip) {
  OVERPROOF_CHECK(x.size() == codes.size());
  const InputKernels<In>& k = kernels.of<In>();
  const int64_t n = int64_t(x.size());
  return search(k.amax_bits(x.data(), n), how, int8_scale, [&](float scale) {
    return k.int8(x.data(), n, scale, reinterpret_cast<uint8_t*>(codes.data()), flip);
  });
}

}  // namespace

ScaledRow quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Clipping how, const RowKernels& kernels, uint8_t flip) {
  return int8_row(row, codes, how, kernels, flip);
}
ScaledRow quantize_int8_row(std::span<const uint16_t> bf16, std::span<int8_t> codes, Clipping how, const RowKernels& kernels,
                            uint8_t flip) {
  return int8_row(bf16, codes, how, kernels, flip);
}

template <class In>
ScaledRow quantize_fp8_block(const In* x, int64_t rows, int64_t n, int64_t stride, uint8_t* codes, Clipping how,
                             const RowKernels& kernels) {
  const InputKernels<In>& k = kernels.of<In>();
  uint32_t magnitude = 0;
  for (int64_t r = 0; r < rows; ++r) magnitude = std::max(magnitude, k.amax_bits(x + r * stride, n));
  return search(magnitude, how, fp8_scale, [&](float scale) {
    RowError sum;
    for (int64_t r = 0; r < rows; ++r) sum += k.fp8(x + r * stride, n, scale, codes + r * stride);
    return sum;
  });
}
template ScaledRow quantize_fp8_block(const float*, int64_t, int64_t, int64_t, uint8_t*, Clipping, const RowKernels&);
template ScaledRow quantize_fp8_block(const uint16_t*, int64_t, int64_t, int64_t, uint8_t*, Clipping, const RowKernels&);

ScaledRow quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, Clipping how, const RowKernels& kernels) {
  OVERPROOF_CHECK(row.size() == codes.size());
  return quantize_fp8_block(row.data(), 1, int64_t(row.size()), 0, codes.data(), how, kernels);
}
ScaledRow quantize_fp8_row(std::span<const uint16_t> bf16, std::span<uint8_t> codes, Clipping how, const RowKernels& kernels) {
  OVERPROOF_CHECK(bf16.size() == codes.size());
  return quantize_fp8_block(bf16.data(), 1, int64_t(bf16.size()), 0, codes.data(), how, kernels);
}

}  // namespace overproof
