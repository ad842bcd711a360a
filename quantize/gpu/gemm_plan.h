#pragma once
// Plans how out [tokens, outputs] = x [tokens, columns] w [outputs, columns]^T over 8-bit codes is computed on a GPU of a given
// compute capability. A pure function, separate from launching, so that tests need no GPU.
//
// What cuBLASLt supports (cuBLAS 13 manual, "Narrow Precision Data Types Usage" and cublasLtMatmul; NVIDIA's answers in
// CUDALibrarySamples issues 270 and 310):
//   int8 -> int32      8.0+, TN only; pointers and leading dimensions multiples of 4 (16 is faster), k and outputs too. The
//                      COL32 orders are for Turing and Ampere only and not preferred: regular order everywhere.
//   fp8, scalars       8.9+, TN, 16-byte rows
//   fp8, outer vectors 9.0 only
//   fp8, 1x128 and 128x128 blocks  9.0 only; tokens and outputs multiples of 4
// Elsewhere codes are multiplied without scales and scaled after (the same result up to rounding), or dequantized first.

#include <cstdint>
#include <string_view>

#include "quantize/gpu/gpu_plugin.h"

namespace overproof {

/// Which elements share a scale: of activations / of the weight.
enum class GemmScaling : int32_t {
  per_tensor,     ///< tensor / tensor
  token_channel,  ///< token / output channel
  block_128       ///< 1 x 128 / 128 x 128
};

enum class GemmPath : int32_t {
  int8_then_scale,   ///< exact int32 sums, then scales
  f8_scalar,         ///< cuBLASLt applies one scale each
  f8_vector,         ///< cuBLASLt applies the outer vectors
  f8_block,          ///< cuBLASLt applies the blocks' scales
  f8_then_scale,     ///< fp8 sums in f32 without scales, then scales
  widen_then_scale,  ///< codes as bf16, which holds them exactly; f32 sums, then scales
  dequantize         ///< codes x scales rounded to bf16, f32 sums
};
std::string_view to_string(GemmPath path);
std::string_view to_string(GemmScaling scaling);

struct GemmProblem {
  int32_t capability;  ///< 10 x major + minor
  ElementType codes;   ///< int8 or f8_e4m3
  GemmScaling scaling;
  int64_t tokens, outputs, columns;
  ElementType out;  ///< f32 or bf16
};

struct GemmPlan {
  GemmPath path;
  std::string_view why;                                ///< for people: the reason for the path
  int64_t tokens, outputs, columns;                    ///< as padded with zeros for cuBLASLt's alignment
  MatmulJob job;                                       ///< all members but the pointers
  ElementType operand;                                 ///< int8, f8_e4m3, or bf16 where codes are converted first
  bool scale_after;                                    ///< ScaleJob on the sums
  ScaleTiles activation_scales, weight_scales;         ///< order of scales that the path needs; tiles over the padded matrices
  int64_t activation_scale_count, weight_scale_count;  ///< floats to allocate for them
};

/// Sums of int8 products fit int32 up to this many columns.
inline constexpr int64_t kInt8Columns = 2147483647 / (127 * 127);

/// Throws UsageError for GPUs before 8.0, MismatchError for empty matrices and sizes that do not fit 32 bits.
GemmPlan choose_gemm_plan(const GemmProblem& problem);

}  // namespace overproof
