#pragma once
// Quantising and dequantising by tiles on the CPU, and the 8-bit matrix product: plain loops with the meaning that the GPU
// kernels must reproduce code for code. What overproof computes on a CPU in earnest is faster and stands in the schemes.

#include <cstdint>

#include "quantize/gemm_plan.h"
#include "quantize/tiles.h"

namespace overproof {

/// Does the job with host pointers; `magnitudes` is not used.
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

/// The scaling of x and w by their tiles. Throws UsageError where the pair is none that we multiply.
GemmScaling gemm_scaling(const CodeMatrix& x, const CodeMatrix& w);

/// out [tokens, outputs] = x w^T in f32, each element on its own and always in the same order:
///   int8, token x channel    int32 sums, (sum x token scale) x channel scale: what the GPU gives, bit for bit (int64 sums
///   rounded
///                            to f32 beyond kInt8Columns)
///   fp8, tensor or channel   f32 sums of 128 columns, these added in f32, then (sum x token scale) x channel scale
///   block_128                f32 (fp8) or int32 (int8) sums of 128 columns, (sum x activation scale) x weight scale added in f32
/// Error of the f32 sums against exact arithmetic: at most (129 + columns / 128) x 2^-24 x sum |x w|.
void reference_gemm(const CodeMatrix& x, const CodeMatrix& w, float* out);

}  // namespace overproof
