#pragma once
// Quantizes rows and blocks on the CPU and finds their scale: absmax, or the clipped scale with the least squared error. The
// operations are those of row_kernels.h; the result does not depend on the kernels.

#include <cstdint>
#include <span>

#include "quantize/kernels/row_kernels.h"

namespace overproof {

/// How a scale is found: the largest magnitude over the largest code, or the clipping candidate (int8.h) with the least squared
/// error, the widest on ties.
enum class Clipping { absmax, mse };

struct ScaledRow {
  float scale = 1.0f;
  RowError error;
  bool finite = true;  ///< false: there is an infinity or NaN; codes are unspecified
};
using Int8Row = ScaledRow;

/// Quantizes one row, n = codes.size(), by int8_code; `flip` as in InputKernels::int8.
ScaledRow quantize_int8_row(std::span<const float> row, std::span<int8_t> codes, Clipping how,
                            const RowKernels& kernels = row_kernels(), uint8_t flip = 0);
ScaledRow quantize_int8_row(std::span<const uint16_t> bf16, std::span<int8_t> codes, Clipping how,
                            const RowKernels& kernels = row_kernels(), uint8_t flip = 0);

/// Number of groups whose errors are added up before they are added to the row's.
inline constexpr int64_t kGroupsAtOnce = 64;

/// One scale for each `group` columns, which divides the row: scales [n / group]. `scale` of the result is unused.
template <class In>
ScaledRow quantize_int8_groups(std::span<const In> row, int64_t group, std::span<int8_t> codes, float* scales, Clipping how,
                               const RowKernels& kernels = row_kernels(), uint8_t flip = 0);

/// quantize_int8_row with fp8_code.
ScaledRow quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, Clipping how,
                           const RowKernels& kernels = row_kernels());
ScaledRow quantize_fp8_row(std::span<const uint16_t> bf16, std::span<uint8_t> codes, Clipping how,
                           const RowKernels& kernels = row_kernels());

/// fp8 of whole rows, at most kBlock of them, with one scale for each block of block.h: x and codes [rows, columns], scales
/// [blocks_of(columns)]. Returns the sum of errors, added row by row, or the first row with an infinity or NaN.
struct BlockRows {
  RowError error;
  int64_t bad_row = -1;
};
template <class In>
BlockRows quantize_fp8_blocks(const In* x, int64_t rows, int64_t columns, uint8_t* codes, float* scales, Clipping how,
                              const RowKernels& kernels = row_kernels());

}  // namespace overproof
