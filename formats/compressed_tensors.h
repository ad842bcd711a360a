#pragma once
// The int8 weights of compressed-tensors' `pack-quantized` format; formats/quantized_checkpoint.h reads them.
//
//   X.weight_packed I32 [o, ceil(i / 4)]   four values q + 128 in a word, the first in its low byte; padded with zeros
//   X.weight_scale  F32, F16 or BF16 [o, 1] (per channel), [o, i / g] (per group of g columns) or [1] (per tensor)
//   X.weight_shape  I64 [2]                {o, i}
//
// Source: compressed_tensors/compressors/pack_quantized of PyPI compressed-tensors 0.20.

#include <cstdint>

namespace overproof {

/// Bytes of a packed row of `columns` int8 values: whole 32-bit words.
constexpr int64_t packed_int8_row_bytes(int64_t columns) { return (columns + 3) / 4 * 4; }

}  // namespace overproof
