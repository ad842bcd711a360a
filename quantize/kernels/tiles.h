#pragma once
// Scales by tiles: every 8-bit layout here is "one scale for each tile of a number of rows and columns".
//
//   per channel, per token      1 x columns       per_row
//   int8 groups, 1x128          1 x 128           per_group
//   DeepSeek's blocks           128 x 128         per_block
//   per tensor                  rows x columns    per_tensor
//
// The index of a tile's scale is given by two strides, which covers the orders of cuBLASLt (transposed, padded) too.
// Plain data for both g++ and nvcc; part of the plugin's C ABI.

#include <cstdint>

#include "core/host_device.h"
#include "quantize/kernels/fp8.h"
#include "quantize/kernels/int8.h"

namespace overproof {

enum class ElementType : int32_t { f32 = 0, bf16 = 1, int8 = 2, f8_e4m3 = 3, int32 = 4 };

inline constexpr int64_t element_bytes(ElementType type) {
  return type == ElementType::f32 || type == ElementType::int32 ? 4 : type == ElementType::bf16 ? 2 : 1;
}

OVERPROOF_HD inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A matrix [rows, columns], row-major, cut into tiles; the last of a row or column of tiles may be smaller.
/// Rows, columns and tile sides are positive and below 2^31.
struct ScaleTiles {
  int64_t rows, columns;
  int64_t tile_rows, tile_columns;
  int64_t row_step, column_step;  ///< the scale of tile (i, j) is scales[i * row_step + j * column_step]

  OVERPROOF_HD int64_t down() const { return ceil_div(rows, tile_rows); }
  OVERPROOF_HD int64_t across() const { return ceil_div(columns, tile_columns); }
  OVERPROOF_HD int64_t count() const { return down() * across(); }
  OVERPROOF_HD int64_t scale_index(int64_t i, int64_t j) const { return i * row_step + j * column_step; }
};

/// Tiles whose scales are dense and row-major, as in files.
inline ScaleTiles tiles_of(int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns) {
  return {rows, columns, tile_rows, tile_columns, ceil_div(columns, tile_columns), 1};
}
inline ScaleTiles per_tensor(int64_t rows, int64_t columns) { return tiles_of(rows, columns, rows, columns); }
inline ScaleTiles per_row(int64_t rows, int64_t columns) { return tiles_of(rows, columns, 1, columns); }
inline ScaleTiles per_group(int64_t rows, int64_t columns, int64_t group) { return tiles_of(rows, columns, 1, group); }
inline ScaleTiles per_block(int64_t rows, int64_t columns, int64_t side) { return tiles_of(rows, columns, side, side); }

/// The scale of a tile from the bits of its largest magnitude. A tile that holds an infinity or NaN gets a NaN, always the same.
template <ElementType kCodes>
OVERPROOF_HD inline float tile_scale(uint32_t magnitude) {
  if (is_not_finite(magnitude)) return f32_from_bits(0x7fc00000u);
  return kCodes == ElementType::int8 ? int8_scale(f32_from_bits(magnitude)) : fp8_scale(f32_from_bits(magnitude));
}

/// The code of an element. Elements that are not finite, and tiles without a scale, get the code 0: hardware differs in NaNs.
template <ElementType kCodes>
OVERPROOF_HD inline uint8_t tile_code(float x, float scale) {
  if (is_not_finite(magnitude_bits(x)) || is_not_finite(magnitude_bits(scale))) return 0;
  return kCodes == ElementType::int8 ? uint8_t(int8_code(x, scale)) : fp8_code(x, scale);
}

template <ElementType kCodes>
OVERPROOF_HD inline float tile_value(uint8_t code, float scale) {
  return kCodes == ElementType::int8 ? int8_value(int8_t(code), scale) : fp8_value(code, scale);
}

inline constexpr uint64_t kNoBadRow = ~uint64_t{0};

/// Quantize x -> codes and scales. With `given_scales` the scales are read instead (static activations).
struct QuantizeJob {
  ScaleTiles tiles;
  ElementType input;  ///< f32 or bf16
  ElementType codes_type;
  int32_t given_scales;
  uint32_t flip;  ///< each code is XORed with it: 0x80 turns an int8 q into q + 128, as packed formats store it
  const void* x;
  int64_t x_stride;  ///< elements from row to row
  uint8_t* codes;
  int64_t code_stride;
  float* scales;
  uint64_t* bad_row;     ///< lowered to the first row with an infinity or NaN; kNoBadRow before
  uint32_t* magnitudes;  ///< [tiles.count()], zeroed; only for large tiles (needs_magnitudes)
};

/// Energy of one row's part of a tile and of its rounding errors, in units of the elements. The order of the additions is
/// that of the CPU's row kernels: squares in units of the scale, in f32 over kTileErrorLanes lanes within kTileErrorBlock columns
/// (from the tile's first column), lanes folded as below, blocks from left to right in double, then times the scale squared.
struct TileError {
  double signal, noise;
};
inline constexpr int kTileErrorLanes = 16;
inline constexpr int64_t kTileErrorBlock = 256;

OVERPROOF_HD inline double fold_error_lanes(const float* lane) {
  float half[kTileErrorLanes / 2];
  for (int i = 0; i < kTileErrorLanes / 2; ++i) half[i] = lane[i] + lane[i + kTileErrorLanes / 2];
  return ((double(half[0]) + half[4]) + (double(half[2]) + half[6])) +
         ((double(half[1]) + half[5]) + (double(half[3]) + half[7]));
}

/// The part of one element. `code` as from tile_code, `reciprocal` 1 / scale.
template <ElementType kCodes>
OVERPROOF_HD inline void add_error(float x, uint8_t code, float reciprocal, float& signal, float& noise) {
  const float steps = x * reciprocal, error = steps - tile_value<kCodes>(code, 1.0f);
  signal += steps * steps;
  noise += error * error;
}

/// Errors of existing codes. Tiles without a scale give NaNs.
struct ErrorJob {
  QuantizeJob quantized;  ///< tiles, x, codes, scales
  TileError* blocks;      ///< [rows, across, error_blocks]: scratch for the sums of blocks
  TileError* errors;      ///< [rows, across]
  OVERPROOF_HD int64_t error_blocks() const {
    const int64_t width =
        quantized.tiles.tile_columns < quantized.tiles.columns ? quantized.tiles.tile_columns : quantized.tiles.columns;
    return ceil_div(width, kTileErrorBlock);
  }
};

/// Codes -> f32 or bf16 (rounded once). Null scales mean 1: the codes themselves, which bf16 holds exactly.
struct DequantizeJob {
  ScaleTiles tiles;
  ElementType codes_type, output;
  const uint8_t* codes;
  int64_t code_stride;
  const float* scales;
  void* out;
  int64_t out_stride;
};

/// out[t, n] = (float(sum[t, n]) x row_scales[t * row_step]) x column_scales[n * column_step].
struct ScaleJob {
  int64_t rows, columns;
  ElementType input, output;  ///< int32 or f32; f32 or bf16
  const void* sums;
  int64_t sum_stride;
  const float *row_scales, *column_scales;
  int64_t row_step, column_step;  ///< 1, or 0 for one scale for all
  void* out;
  int64_t out_stride;
};

OVERPROOF_HD inline float scaled_sum(float sum, float row_scale, float column_scale) { return (sum * row_scale) * column_scale; }

}  // namespace overproof
