#pragma once
// Weights in 128 x 128 blocks with one scale each; the last blocks of rows and columns may be smaller. DeepSeek-V3's layout, and
// compressed-tensors' strategy "block". Scales [ceil(rows / 128), ceil(columns / 128)], row-major.

#include <cstdint>

#include "core/host_device.h"

namespace overproof {

inline constexpr int64_t kBlock = 128;

/// Number of blocks that cover n rows or columns.
OVERPROOF_HD constexpr int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }
/// Width of block `b` of a row of `columns`.
OVERPROOF_HD constexpr int64_t block_width(int64_t b, int64_t columns) {
  return columns - b * kBlock < kBlock ? columns - b * kBlock : kBlock;
}
/// Index of the scale of element (row, column).
OVERPROOF_HD constexpr int64_t block_scale_index(int64_t row, int64_t column, int64_t columns) {
  return row / kBlock * blocks_of(columns) + column / kBlock;
}

}  // namespace overproof
