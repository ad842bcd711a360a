#pragma once
// Rows and blocks on the CPU at a scale of their own: absmax, or the clipped one with the least squared error. The operations
// come from row_kernels.h; what is chosen does not depend on the kernels.

#include <cstdint>
#include <span>

#include "quantize/row_kernels.h"

namespace overproof {

/// How a scale is found: the largest magnitude over the largest code, or the clipping candidate (int8.h) with the least squared
/// error, the widest on ties.
enum class Clipping { absmax, mse };
using Int8Scale = Clipping;  // as callers outside spell it

struct ScaledRow {
  float scale = 1.0f;
  RowError error;
  bool finite = true;  ///< false: there is an infinity or NaN; codes are unspecified
};
using Int8Row = ScaledRow;

/// Quantises one row, n = codes.size(), by int8_code; `flip` as in InputKernels::int8.
ScaledRow quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Clipping how,
                            const RowKernels& kernels = row_kernels(), uint8_t flip = 0);
ScaledRow quantize_int8_row(std::span<const uint16_t> bf16, std::span<int8_t> codes, Clipping how,
                            const RowKernels& kernels = row_kernels(), uint8_t flip = 0);

/// The same by fp8_code.
ScaledRow quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, Clipping how,
                           const RowKernels& kernels = row_kernels());
ScaledRow quantize_fp8_row(std::span<const uint16_t> bf16, std::span<uint8_t> codes, Clipping how,
                           const RowKernels& kernels = row_kernels());

/// fp8 of `rows` pieces of rows, n values each and `stride` apart in x and codes, at one scale: a block of block.h, or a whole
/// weight. The error sums are added row by row.
template <class In>
ScaledRow quantize_fp8_block(const In* x, int64_t rows, int64_t n, int64_t stride, uint8_t* codes, Clipping how,
                             const RowKernels& kernels = row_kernels());

}  // namespace overproof
