#include "quantize/kernels/tiles_cpu.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

constexpr int64_t kScaleBlock = 128;

float element(const void* x, ElementType type, int64_t i) {
  return type == ElementType::bf16 ? bf16_to_f32(static_cast<const uint16_t*>(x)[i]) : static_cast<const float*>(x)[i];
}

/// Calls body(row, first column, end column) for the rows of tile (i, j).
template <class Body>
void each_tile_row(const ScaleTiles& t, int64_t i, int64_t j, Body&& body) {
  const int64_t end_row = std::min(t.rows, (i + 1) * t.tile_rows), end_column = std::min(t.columns, (j + 1) * t.tile_columns);
  for (int64_t row = i * t.tile_rows; row < end_row; ++row) body(row, j * t.tile_columns, end_column);
}

template <ElementType kCodes>
void quantize_tile(const QuantizeJob& job, int64_t i, int64_t j) {
  float& scale = job.scales[job.tiles.scale_index(i, j)];
  uint32_t magnitude = 0;
  each_tile_row(job.tiles, i, j, [&](int64_t row, int64_t first, int64_t end) {
    uint32_t here = 0;
    for (int64_t c = first; c < end; ++c)
      here = std::max(here, magnitude_bits(element(job.x, job.input, row * job.x_stride + c)));
    if (is_not_finite(here)) *job.bad_row = std::min(*job.bad_row, uint64_t(row));
    magnitude = std::max(magnitude, here);
  });
  if (!job.given_scales) scale = tile_scale<kCodes>(magnitude);
  each_tile_row(job.tiles, i, j, [&](int64_t row, int64_t first, int64_t end) {
    for (int64_t c = first; c < end; ++c)
      job.codes[row * job.code_stride + c] =
          uint8_t(tile_code<kCodes>(element(job.x, job.input, row * job.x_stride + c), scale) ^ job.flip);
  });
}

template <ElementType kCodes>
TileError row_error(const QuantizeJob& job, int64_t row, int64_t first, int64_t end, float scale) {
  TileError sum{0, 0};
  for (int64_t begin = first; begin < end; begin += kTileErrorBlock) {
    float signal[kTileErrorLanes] = {}, noise[kTileErrorLanes] = {};
    for (int64_t c = begin; c < std::min(end, begin + kTileErrorBlock); ++c) {
      const int64_t lane = (c - begin) % kTileErrorLanes;
      add_error<kCodes>(element(job.x, job.input, row * job.x_stride + c),
                        uint8_t(job.codes[row * job.code_stride + c] ^ job.flip), 1.0f / scale, signal[lane], noise[lane]);
    }
    sum.signal += fold_error_lanes(signal);
    sum.noise += fold_error_lanes(noise);
  }
  const double square = double(scale) * scale;
  return {sum.signal * square, sum.noise * square};
}

float code_value(ElementType type, uint8_t code) {
  return type == ElementType::int8 ? float(int8_t(code)) : f8_e4m3_to_f32(code);
}

/// Sum of the products of columns [begin, end).
template <class Sum>
Sum dot(const CodeMatrix& x, const CodeMatrix& w, int64_t t, int64_t n, int64_t begin, int64_t end) {
  const uint8_t* a = x.codes + t * x.tiles.columns;
  const uint8_t* b = w.codes + n * w.tiles.columns;
  Sum sum = 0;
  for (int64_t k = begin; k < end; ++k) {
    if constexpr (std::is_integral_v<Sum>) sum += Sum(int8_t(a[k])) * Sum(int8_t(b[k]));
    else sum += f8_e4m3_to_f32(a[k]) * f8_e4m3_to_f32(b[k]);
  }
  return sum;
}

bool same_tiles(const ScaleTiles& a, const ScaleTiles& b) {
  return a.tile_rows == b.tile_rows && a.tile_columns == b.tile_columns;
}

}  // namespace

void quantize_tiles(const QuantizeJob& job) {
  for (int64_t i = 0; i < job.tiles.down(); ++i)
    for (int64_t j = 0; j < job.tiles.across(); ++j)
      job.codes_type == ElementType::int8 ? quantize_tile<ElementType::int8>(job, i, j)
                                          : quantize_tile<ElementType::f8_e4m3>(job, i, j);
}

void tile_errors(const ErrorJob& job) {
  const QuantizeJob& q = job.quantized;
  for (int64_t i = 0; i < q.tiles.down(); ++i)
    for (int64_t j = 0; j < q.tiles.across(); ++j)
      each_tile_row(q.tiles, i, j, [&](int64_t row, int64_t first, int64_t end) {
        const float scale = q.scales[q.tiles.scale_index(i, j)];
        TileError& error = job.errors[row * q.tiles.across() + j];
        error = q.codes_type == ElementType::int8 ? row_error<ElementType::int8>(q, row, first, end, scale)
                                                  : row_error<ElementType::f8_e4m3>(q, row, first, end, scale);
      });
}

void dequantize_tiles(const DequantizeJob& job) {
  const ScaleTiles& t = job.tiles;
  for (int64_t row = 0; row < t.rows; ++row)
    for (int64_t c = 0; c < t.columns; ++c) {
      const float scale = job.scales == nullptr ? 1.0f : job.scales[t.scale_index(row / t.tile_rows, c / t.tile_columns)];
      const float value = code_value(job.codes_type, job.codes[row * job.code_stride + c]) * scale;
      const int64_t at = row * job.out_stride + c;
      if (job.output == ElementType::bf16) static_cast<uint16_t*>(job.out)[at] = f32_to_bf16(value);
      else static_cast<float*>(job.out)[at] = value;
    }
}

GemmScaling gemm_scaling(const CodeMatrix& x, const CodeMatrix& w) {
  const auto is = [](const ScaleTiles& t, ScaleTiles (*make)(int64_t, int64_t)) {
    return same_tiles(t, make(t.rows, t.columns));
  };
  if (x.type == w.type && x.tiles.columns == w.tiles.columns) {
    if (x.tiles.tile_rows == 1 && x.tiles.tile_columns == kScaleBlock && w.tiles.tile_rows == kScaleBlock &&
        w.tiles.tile_columns == kScaleBlock)
      return GemmScaling::block_128;
    // A single row matches both per-tensor and per-token tiles; per-token is tested first, for one token times a weight by channels.
    if (is(x.tiles, per_row) && is(w.tiles, per_row)) return GemmScaling::token_channel;
    if (is(x.tiles, per_tensor) && is(w.tiles, per_tensor)) return GemmScaling::per_tensor;
  }
  throw MismatchError(fmt::format(
      "[{}, {}] with scales for {} x {} times [{}, {}] with scales for {} x {}: no product for that; there are tensor x "
      "tensor, token x channel and 1x128 x 128x128, of one format",
      x.tiles.rows, x.tiles.columns, x.tiles.tile_rows, x.tiles.tile_columns, w.tiles.rows, w.tiles.columns, w.tiles.tile_rows,
      w.tiles.tile_columns));
}

void reference_gemm(const CodeMatrix& x, const CodeMatrix& w, float* out) {
  const GemmScaling scaling = gemm_scaling(x, w);
  const int64_t columns = x.tiles.columns, outputs = w.tiles.rows;
  const bool int8 = x.type == ElementType::int8;
  const auto scale = [](const CodeMatrix& m, int64_t row, int64_t column) {
    return m.scales[m.tiles.scale_index(row / m.tiles.tile_rows, column / m.tiles.tile_columns)];
  };
  parallel_for(x.tiles.rows, 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t)
      for (int64_t n = 0; n < outputs; ++n) {
        float& sum = out[t * outputs + n];
        if (int8 && scaling != GemmScaling::block_128) {
          sum = scaled_sum(float(dot<int64_t>(x, w, t, n, 0, columns)), scale(x, t, 0), scale(w, n, 0));
          continue;
        }
        sum = 0;
        for (int64_t begin = 0; begin < columns; begin += kScaleBlock) {
          const int64_t end = std::min(columns, begin + kScaleBlock);
          const float part = int8 ? float(dot<int32_t>(x, w, t, n, begin, end)) : dot<float>(x, w, t, n, begin, end);
          sum += scaling == GemmScaling::block_128 ? scaled_sum(part, scale(x, t, begin), scale(w, n, begin)) : part;
        }
        if (scaling != GemmScaling::block_128) sum = scaled_sum(sum, scale(x, t, 0), scale(w, n, 0));
      }
  });
}

}  // namespace overproof
