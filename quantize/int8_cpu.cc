#include "quantize/int8_cpu.h"

#include <algorithm>

#include "core/error.h"
#include "quantize/block.h"
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
  // Rows whole, one after the other: a column of blocks would go through memory in strides that share few cache sets.
  std::fill(scales, scales + blocks_of(columns), 0.0f);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b < blocks_of(columns); ++b) {
      const uint32_t magnitude = k.amax_bits(x + r * columns + b * kBlock, block_width(b, columns));
      if (is_not_finite(magnitude)) return {{}, r};
      scales[b] = std::max(scales[b], f32_from_bits(magnitude));
    }
  if (how == Clipping::mse) {
    for (int64_t b = 0; b < blocks_of(columns); ++b) {
      const auto block = [&](float scale) {
        RowError sum;
        for (int64_t r = 0; r < rows; ++r)
          sum += k.fp8(x + r * columns + b * kBlock, block_width(b, columns), scale, codes + r * columns + b * kBlock);
        return sum;
      };
      const ScaledRow made = search(f32_bits(scales[b]), how, fp8_scale, block);
      scales[b] = made.scale;
      result.error += made.error;
    }
    return result;
  }
  for (int64_t b = 0; b < blocks_of(columns); ++b) scales[b] = fp8_scale(scales[b]);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b < blocks_of(columns); ++b)
      result.error += k.fp8(x + r * columns + b * kBlock, block_width(b, columns), scales[b], codes + r * columns + b * kBlock);
  return result;
}
template BlockRows quantize_fp8_blocks(const float*, int64_t, int64_t, uint8_t*, float*, Clipping, const RowKernels&);
template BlockRows quantize_fp8_blocks(const uint16_t*, int64_t, int64_t, uint8_t*, float*, Clipping, const RowKernels&);

}  // namespace overproof
