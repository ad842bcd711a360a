#pragma once
// Quantizes and dequantizes by tiles on the CPU, and multiplies 8-bit matrices: plain loops that define what the GPU kernels
// must reproduce code for code. The faster code that `quantize` uses on a CPU is in the schemes.

#include <cstdint>

#include "quantize/gpu/gemm_plan.h"
#include "quantize/kernels/tiles.h"

namespace overproof {

/// Runs the job with host pointers; `magnitudes` is not used.
void quantize_tiles(const QuantizeJob& job);
/// `blocks` is not used.
void tile_errors(const ErrorJob& job);
void dequantize_tiles(const DequantizeJob& job);

/// A matrix of codes [tiles.rows, tiles.columns] with its scales, host memory; dense rows.
struct CodeMatrix {
  ElementType type;  ///< int8 or f8_e4m3
  ScaleTiles tiles;
  const uint8_t* codes;
  const float* scales;
};

/// The scaling of x and w, from their tiles. Throws MismatchError for a pair that is not supported.
GemmScaling gemm_scaling(const CodeMatrix& x, const CodeMatrix& w);

/// out [tokens, outputs] = x w^T in f32; each element is computed separately, always in the same order:
///   int8, token x channel    int32 sums, (sum x token scale) x channel scale: equals the GPU's result bit for bit (beyond
///                            kInt8Columns: int64 sums, rounded to f32)
///   fp8, tensor or channel   f32 sums of 128 columns, these added in f32, then (sum x token scale) x channel scale
///   block_128                f32 (fp8) or int32 (int8) sums of 128 columns, (sum x activation scale) x weight scale added in f32
/// Error of the f32 sums against exact arithmetic: at most (129 + columns / 128) x 2^-24 x sum |x w|.
void reference_gemm(const CodeMatrix& x, const CodeMatrix& w, float* out);

}  // namespace overproof
