#pragma once
// Chooses kernel bodies and numbers of blocks for a job. Host code, shared by the plugin and the tests' grid emulator, which
// differ in `launch(body, blocks)` only.

#include <cstdint>

#include "quantize/gpu/gpu_kernels.h"

namespace overproof::gpu {

/// Whether every row of `p` begins at a multiple of four elements.
inline bool quads_aligned(const void* p, int64_t stride, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % uintptr_t(kQuad * bytes) == 0 && stride % kQuad == 0;
}

/// Rows and quads are counted in 32 bits on the device.
inline bool fits_device(int64_t rows, int64_t columns) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  return rows > 0 && columns > 0 && rows < kLimit && columns < kLimit && rows * ceil_div(columns, kQuad) < (int64_t{1} << 32);
}

/// Tiles of more than kLargeTile elements are reduced by many blocks.
inline bool needs_magnitudes(const ScaleTiles& t) {
  const int64_t rows = t.rows < t.tile_rows ? t.rows : t.tile_rows,
                columns = t.columns < t.tile_columns ? t.columns : t.tile_columns;
  return rows * columns > kLargeTile;
}

inline int64_t blocks_for(int64_t threads) { return ceil_div(threads, kThreads); }

template <class Element, ElementType kCodes, class Launch>
void launch_quantize(const QuantizeJob& job, Launch&& launch) {
  const ScaleTiles& t = job.tiles;
  // No quad spans two tiles: it is cut at the right end of its tile. It is aligned when tiles begin at multiples of four.
  const bool aligned = (t.across() == 1 || t.tile_columns % kQuad == 0) && quads_aligned(job.x, job.x_stride, sizeof(Element)) &&
                       quads_aligned(job.codes, job.code_stride, 1);
  if (!job.given_scales) {
    const TileSpan first = tile_span(t, 0);  // the largest
    if (!needs_magnitudes(t)) {
      const int32_t team = int32_t(first.quads()) <= kNarrowQuads ? 32 : kThreads;
      launch(QuantizeTiles<Element, kCodes>{job, team, aligned}, ceil_div(t.count(), kThreads / team));
      return;
    }
    const int64_t chunks = ceil_div(first.quads(), kChunkQuads);
    launch(TileMagnitude<Element>{job, chunks, aligned}, t.count() * chunks);
    launch(TileScale<kCodes>{job}, blocks_for(t.count()));
  }
  const Sheet sheet{t.rows, t.columns};
  const bool whole = aligned && t.columns % kQuad == 0;
  launch(QuantizeGiven<Element, kCodes>{job, whole}, blocks_for(sheet.quads()));
}

/// Calls `launch` for the job's types; false for types that no kernel supports.
template <class Launch>
bool dispatch(const QuantizeJob& job, Launch&& launch) {
  const bool int8 = job.codes_type == ElementType::int8;
  if (!int8 && job.codes_type != ElementType::f8_e4m3) return false;
  if (job.input == ElementType::f32) {
    int8 ? launch_quantize<float, ElementType::int8>(job, launch) : launch_quantize<float, ElementType::f8_e4m3>(job, launch);
  } else if (job.input == ElementType::bf16) {
    int8 ? launch_quantize<uint16_t, ElementType::int8>(job, launch)
         : launch_quantize<uint16_t, ElementType::f8_e4m3>(job, launch);
  } else {
    return false;
  }
  return true;
}

template <class Element, class Launch>
void launch_errors(const ErrorJob& job, Launch&& launch) {
  const ScaleTiles& t = job.quantized.tiles;
  const int64_t blocks = blocks_for(t.rows * t.across() * job.error_blocks() * kTileErrorLanes);
  if (job.quantized.codes_type == ElementType::int8) launch(ErrorBlocks<Element, ElementType::int8>{job}, blocks);
  else launch(ErrorBlocks<Element, ElementType::f8_e4m3>{job}, blocks);
  launch(ErrorSums{job}, blocks_for(t.rows * t.across()));
}

template <class Launch>
bool dispatch(const ErrorJob& job, Launch&& launch) {
  const QuantizeJob& q = job.quantized;
  if (q.codes_type != ElementType::int8 && q.codes_type != ElementType::f8_e4m3) return false;
  if (q.input == ElementType::f32) launch_errors<float>(job, launch);
  else if (q.input == ElementType::bf16) launch_errors<uint16_t>(job, launch);
  else return false;
  return true;
}

template <class Launch>
bool dispatch(const DequantizeJob& job, Launch&& launch) {
  const int64_t blocks = blocks_for(Sheet{job.tiles.rows, job.tiles.columns}.quads());
  const bool aligned =
      quads_aligned(job.codes, job.code_stride, 1) && quads_aligned(job.out, job.out_stride, element_bytes(job.output));
  const bool int8 = job.codes_type == ElementType::int8;
  if (!int8 && job.codes_type != ElementType::f8_e4m3) return false;
  if (job.output == ElementType::f32) {
    int8 ? launch(Dequantize<float, ElementType::int8>{job, aligned}, blocks)
         : launch(Dequantize<float, ElementType::f8_e4m3>{job, aligned}, blocks);
  } else if (job.output == ElementType::bf16) {
    int8 ? launch(Dequantize<uint16_t, ElementType::int8>{job, aligned}, blocks)
         : launch(Dequantize<uint16_t, ElementType::f8_e4m3>{job, aligned}, blocks);
  } else {
    return false;
  }
  return true;
}

template <class Launch>
bool dispatch(const ScaleJob& job, Launch&& launch) {
  const int64_t blocks = blocks_for(Sheet{job.rows, job.columns}.quads());
  const bool aligned =
      quads_aligned(job.sums, job.sum_stride, 4) && quads_aligned(job.out, job.out_stride, element_bytes(job.output));
  const bool integers = job.input == ElementType::int32;
  if (!integers && job.input != ElementType::f32) return false;
  if (job.output == ElementType::f32) {
    integers ? launch(ScaleSums<int32_t, float>{job, aligned}, blocks) : launch(ScaleSums<float, float>{job, aligned}, blocks);
  } else if (job.output == ElementType::bf16) {
    integers ? launch(ScaleSums<int32_t, uint16_t>{job, aligned}, blocks)
             : launch(ScaleSums<float, uint16_t>{job, aligned}, blocks);
  } else {
    return false;
  }
  return true;
}

}  // namespace overproof::gpu
