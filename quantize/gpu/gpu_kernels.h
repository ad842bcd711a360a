#pragma once
// The kernel bodies: the work of thread t of block b in phase p. Phases are separated by a barrier, and only the shared struct
// survives it. The .cu files launch them unchanged; tests/quantize/grid_emulator.h runs the same bodies on the CPU, block by
// block and thread by thread, so traversal, reduction and rounding are tested without a GPU.
//
// Maxima are taken over integers (int8.h, magnitude_bits), so their order does not matter; everything else is per element.

#include <cstdint>
#include <cstring>

#include "quantize/kernels/tiles.h"

namespace overproof::gpu {

inline constexpr int kThreads = 256;
/// Elements that a thread loads at once: 16 bytes of f32, 8 of bf16.
inline constexpr int kQuad = 4;
/// Larger tiles are shared by many blocks of kChunkQuads quads each.
inline constexpr int64_t kLargeTile = int64_t{1} << 17;
inline constexpr uint32_t kChunkQuads = 8192;
/// Most quads of a tile that one narrow team (a warp) reduces.
inline constexpr int64_t kNarrowQuads = 64;

template <class Element>
OVERPROOF_HD inline float as_f32(Element x) {
  if constexpr (sizeof(Element) == 2) return bf16_to_f32(x);
  else return float(x);
}
template <class Element>
OVERPROOF_HD inline Element from_f32(float x) {
  if constexpr (sizeof(Element) == 2) return f32_to_bf16(x);
  else return Element(x);
}

/// Four elements, moved at once.
template <class T>
struct alignas(sizeof(T) * kQuad) Pack {
  T at[kQuad];
};

/// Up to four elements, zeros for the others. `whole`: p is aligned to four elements and there are four.
template <class T>
OVERPROOF_HD inline Pack<T> load_quad(const T* p, int count, bool whole) {
  Pack<T> pack{};
  if (whole) {
#if defined(__CUDA_ARCH__)
    pack = *reinterpret_cast<const Pack<T>*>(p);
#else
    memcpy(&pack, p, sizeof(pack));
#endif
  } else {
    for (int i = 0; i < count; ++i) pack.at[i] = p[i];
  }
  return pack;
}
template <class T>
OVERPROOF_HD inline void store_quad(T* p, int count, bool whole, const Pack<T>& pack) {
  if (whole) {
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<Pack<T>*>(p) = pack;
#else
    memcpy(p, &pack, sizeof(pack));
#endif
  } else {
    for (int i = 0; i < count; ++i) p[i] = pack.at[i];
  }
}

OVERPROOF_HD inline void lower_to(uint64_t* p, uint64_t value) {
#if defined(__CUDA_ARCH__)
  atomicMin(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value));
#else
  if (value < *p) *p = value;
#endif
}
OVERPROOF_HD inline void raise_to(uint32_t* p, uint32_t value) {
#if defined(__CUDA_ARCH__)
  atomicMax(p, value);
#else
  if (value > *p) *p = value;
#endif
}

/// Quad `quad` of a rectangle whose rows hold `quads_across` of them.
struct Quad {
  int64_t row, column;
  int count;
};
OVERPROOF_HD inline Quad quad_at(uint32_t quad, uint32_t quads_across, int64_t first_row, int64_t first_column, int64_t columns) {
  const uint32_t row = quad / quads_across, across = quad - row * quads_across;
  const int64_t left = columns - int64_t(across) * kQuad;
  return {first_row + row, first_column + int64_t(across) * kQuad, left < kQuad ? int(left) : kQuad};
}

/// The position of a tile, clipped to the matrix.
struct TileSpan {
  int64_t first_row, first_column, rows, columns;
  OVERPROOF_HD uint32_t quads_across() const { return uint32_t(ceil_div(columns, kQuad)); }
  OVERPROOF_HD uint32_t quads() const { return uint32_t(rows) * quads_across(); }
  OVERPROOF_HD Quad quad(uint32_t i) const { return quad_at(i, quads_across(), first_row, first_column, columns); }
};
OVERPROOF_HD inline TileSpan tile_span(const ScaleTiles& t, int64_t tile) {
  const int64_t i = tile / t.across(), j = tile % t.across();
  const int64_t row = i * t.tile_rows, column = j * t.tile_columns;
  const int64_t rows = t.rows - row, columns = t.columns - column;
  return {row, column, rows < t.tile_rows ? rows : t.tile_rows, columns < t.tile_columns ? columns : t.tile_columns};
}
OVERPROOF_HD inline int64_t scale_at(const ScaleTiles& t, int64_t row, int64_t column) {
  return t.scale_index(uint32_t(row) / uint32_t(t.tile_rows), uint32_t(column) / uint32_t(t.tile_columns));
}

/// Largest magnitude of quads first, first + step, ... below `end`; lowers bad_row to the row of an element that is not finite.
template <class Element>
OVERPROOF_HD inline uint32_t quads_magnitude(const QuantizeJob& job, bool vectors, const TileSpan& span, uint32_t first,
                                             uint32_t step, uint32_t end) {
  uint32_t largest = 0;
  for (uint32_t i = first; i < end; i += step) {
    const Quad q = span.quad(i);
    const Element* from = static_cast<const Element*>(job.x) + q.row * job.x_stride + q.column;
    const Pack<Element> x = load_quad(from, q.count, vectors && q.count == kQuad);
    uint32_t here = 0;
    for (int k = 0; k < kQuad; ++k) {
      const uint32_t m = magnitude_bits(as_f32(x.at[k]));
      here = m > here ? m : here;
    }
    if (is_not_finite(here)) lower_to(job.bad_row, uint64_t(q.row));
    largest = here > largest ? here : largest;
  }
  return largest;
}

template <class Element, ElementType kCodes>
OVERPROOF_HD inline void quad_codes(const QuantizeJob& job, bool vectors, const Quad& q, float scale) {
  const bool whole = vectors && q.count == kQuad;
  const Pack<Element> x = load_quad(static_cast<const Element*>(job.x) + q.row * job.x_stride + q.column, q.count, whole);
  Pack<uint8_t> codes;
  for (int k = 0; k < kQuad; ++k) codes.at[k] = uint8_t(tile_code<kCodes>(as_f32(x.at[k]), scale) ^ job.flip);
  store_quad(job.codes + q.row * job.code_stride + q.column, q.count, whole, codes);
}

/// Teams of `team` threads (32 or 256) find the maximum of their values in two folds: to a few partials, then to one.
struct TeamShared {
  uint32_t value[kThreads];
  uint32_t partial[kThreads / 2];
};
OVERPROOF_HD inline int team_partials(int team) { return team == kThreads ? 16 : 4; }
OVERPROOF_HD inline void fold_to_partials(TeamShared& s, int thread, int team) {
  const int lane = thread % team, partials = team_partials(team), width = team / partials;
  if (lane >= partials) return;
  const uint32_t* from = s.value + (thread - lane) + lane * width;
  uint32_t largest = 0;
  for (int i = 0; i < width; ++i) largest = from[i] > largest ? from[i] : largest;
  s.partial[thread / team * partials + lane] = largest;
}
OVERPROOF_HD inline uint32_t fold_partials(const TeamShared& s, int thread, int team) {
  const int partials = team_partials(team);
  const uint32_t* from = s.partial + thread / team * partials;
  uint32_t largest = 0;
  for (int i = 0; i < partials; ++i) largest = from[i] > largest ? from[i] : largest;
  return largest;
}

/// One team per tile: maximum, scale, codes. The tile is read twice, the second time from cache.
template <class Element, ElementType kCodes>
struct QuantizeTiles {
  static constexpr int kPhases = 4;
  struct Shared {
    TeamShared team;
    float scale[kThreads / 32];
  };
  QuantizeJob job;
  int32_t team;
  bool vectors;

  OVERPROOF_HD void run(int phase, int64_t block, int thread, Shared& s) const {
    const int64_t tile = block * (kThreads / team) + thread / team;
    if (tile >= job.tiles.count()) return;
    const uint32_t lane = uint32_t(thread % team);
    if (phase == 1) return fold_to_partials(s.team, thread, team);
    const TileSpan span = tile_span(job.tiles, tile);
    if (phase == 0) {
      s.team.value[thread] = quads_magnitude<Element>(job, vectors, span, lane, uint32_t(team), span.quads());
    } else if (phase == 2) {
      if (lane != 0) return;
      const float scale = tile_scale<kCodes>(fold_partials(s.team, thread, team));
      s.scale[thread / team] = scale;
      job.scales[scale_at(job.tiles, span.first_row, span.first_column)] = scale;
    } else {
      const float scale = s.scale[thread / team];
      for (uint32_t i = lane; i < span.quads(); i += uint32_t(team))
        quad_codes<Element, kCodes>(job, vectors, span.quad(i), scale);
    }
  }
};

/// Large tiles, first step: block b reduces chunk b % chunks of tile b / chunks into the tile's magnitude.
template <class Element>
struct TileMagnitude {
  static constexpr int kPhases = 3;
  using Shared = TeamShared;
  QuantizeJob job;
  int64_t chunks;
  bool vectors;

  OVERPROOF_HD void run(int phase, int64_t block, int thread, Shared& s) const {
    if (phase == 0) {
      const TileSpan span = tile_span(job.tiles, block / chunks);
      const int64_t first = block % chunks * kChunkQuads, last = first + kChunkQuads, all = span.quads();
      const uint32_t end = uint32_t(last < all ? last : all);
      s.value[thread] = first >= all ? 0 : quads_magnitude<Element>(job, vectors, span, uint32_t(first) + thread, kThreads, end);
    } else if (phase == 1) {
      fold_to_partials(s, thread, kThreads);
    } else if (thread == 0) {
      raise_to(job.magnitudes + block / chunks, fold_partials(s, thread, kThreads));
    }
  }
};

struct Nothing {};

/// Large tiles, second step: one thread per tile.
template <ElementType kCodes>
struct TileScale {
  static constexpr int kPhases = 1;
  using Shared = Nothing;
  QuantizeJob job;

  OVERPROOF_HD void run(int, int64_t block, int thread, Shared&) const {
    const int64_t tile = block * kThreads + thread;
    if (tile >= job.tiles.count()) return;
    job.scales[job.tiles.scale_index(tile / job.tiles.across(), tile % job.tiles.across())] =
        tile_scale<kCodes>(job.magnitudes[tile]);
  }
};

/// The whole matrix by quads, one per thread.
struct Sheet {
  int64_t rows, columns;
  OVERPROOF_HD uint32_t quads_across() const { return uint32_t(ceil_div(columns, kQuad)); }
  OVERPROOF_HD int64_t quads() const { return rows * quads_across(); }
  OVERPROOF_HD Quad quad(int64_t i) const { return quad_at(uint32_t(i), quads_across(), 0, 0, columns); }
};

/// Codes at scales that are known: large tiles, third step, and static activations.
template <class Element, ElementType kCodes>
struct QuantizeGiven {
  static constexpr int kPhases = 1;
  using Shared = Nothing;
  QuantizeJob job;
  bool vectors;  ///< all four columns of a quad share a scale

  OVERPROOF_HD void run(int, int64_t block, int thread, Shared&) const {
    const Sheet sheet{job.tiles.rows, job.tiles.columns};
    const int64_t i = block * kThreads + thread;
    if (i >= sheet.quads()) return;
    const Quad q = sheet.quad(i);
    const Element* x = static_cast<const Element*>(job.x) + q.row * job.x_stride;
    for (int k = 0; k < q.count; ++k)
      if (is_not_finite(magnitude_bits(as_f32(x[q.column + k])))) lower_to(job.bad_row, uint64_t(q.row));
    if (vectors) return quad_codes<Element, kCodes>(job, true, q, job.scales[scale_at(job.tiles, q.row, q.column)]);
    for (int k = 0; k < q.count; ++k)
      quad_codes<Element, kCodes>(job, false, {q.row, q.column + k, 1}, job.scales[scale_at(job.tiles, q.row, q.column + k)]);
  }
};

/// Errors, first step: a team of kTileErrorLanes threads per block of columns of one row of one tile.
template <class Element, ElementType kCodes>
struct ErrorBlocks {
  static constexpr int kPhases = 2;
  struct Shared {
    float signal[kThreads], noise[kThreads];
  };
  ErrorJob job;

  OVERPROOF_HD void run(int phase, int64_t block, int thread, Shared& s) const {
    const QuantizeJob& q = job.quantized;
    const int64_t place = block * (kThreads / kTileErrorLanes) + thread / kTileErrorLanes;  // [row, tile, block]
    if (place >= q.tiles.rows * q.tiles.across() * job.error_blocks()) return;
    const int lane = thread % kTileErrorLanes;
    if (phase == 1) {
      if (lane == 0) job.blocks[place] = {fold_error_lanes(s.signal + thread), fold_error_lanes(s.noise + thread)};
      return;
    }
    const int64_t row = place / job.error_blocks() / q.tiles.across(), tile = place / job.error_blocks() % q.tiles.across();
    const int64_t tile_end = (tile + 1) * q.tiles.tile_columns,
                  first = tile * q.tiles.tile_columns + place % job.error_blocks() * kTileErrorBlock;
    int64_t end = first + kTileErrorBlock;
    end = end < tile_end ? end : tile_end;
    end = end < q.tiles.columns ? end : q.tiles.columns;
    const float reciprocal = 1.0f / q.scales[q.tiles.scale_index(row / q.tiles.tile_rows, tile)];
    float signal = 0, noise = 0;
    for (int64_t c = first + lane; c < end; c += kTileErrorLanes)
      add_error<kCodes>(as_f32(static_cast<const Element*>(q.x)[row * q.x_stride + c]),
                        uint8_t(q.codes[row * q.code_stride + c] ^ q.flip), reciprocal, signal, noise);
    s.signal[thread] = signal;
    s.noise[thread] = noise;
  }
};

/// Errors, second step: one thread per row of a tile.
struct ErrorSums {
  static constexpr int kPhases = 1;
  using Shared = Nothing;
  ErrorJob job;

  OVERPROOF_HD void run(int, int64_t block, int thread, Shared&) const {
    const ScaleTiles& t = job.quantized.tiles;
    const int64_t place = block * kThreads + thread;  // [row, tile]
    if (place >= t.rows * t.across()) return;
    TileError sum{0, 0};
    for (int64_t b = 0; b < job.error_blocks(); ++b) {
      sum.signal += job.blocks[place * job.error_blocks() + b].signal;
      sum.noise += job.blocks[place * job.error_blocks() + b].noise;
    }
    const double scale = job.quantized.scales[t.scale_index(place / t.across() / t.tile_rows, place % t.across())],
                 square = scale * scale;
    job.errors[place] = {sum.signal * square, sum.noise * square};
  }
};

template <class Out, ElementType kCodes>
struct Dequantize {
  static constexpr int kPhases = 1;
  using Shared = Nothing;
  DequantizeJob job;
  bool vectors;

  OVERPROOF_HD void run(int, int64_t block, int thread, Shared&) const {
    const Sheet sheet{job.tiles.rows, job.tiles.columns};
    const int64_t i = block * kThreads + thread;
    if (i >= sheet.quads()) return;
    const Quad q = sheet.quad(i);
    const bool whole = vectors && q.count == kQuad;
    const Pack<uint8_t> codes = load_quad(job.codes + q.row * job.code_stride + q.column, q.count, whole);
    Pack<Out> out;
    for (int k = 0; k < kQuad; ++k) {
      const bool scaled = job.scales != nullptr && k < q.count;
      const float scale = scaled ? job.scales[scale_at(job.tiles, q.row, q.column + k)] : 1.0f;
      out.at[k] = from_f32<Out>(tile_value<kCodes>(codes.at[k], scale));
    }
    store_quad(static_cast<Out*>(job.out) + q.row * job.out_stride + q.column, q.count, whole, out);
  }
};

/// Scales the sums of a GEMM over codes.
template <class Sum, class Out>
struct ScaleSums {
  static constexpr int kPhases = 1;
  using Shared = Nothing;
  ScaleJob job;
  bool vectors;

  OVERPROOF_HD void run(int, int64_t block, int thread, Shared&) const {
    const Sheet sheet{job.rows, job.columns};
    const int64_t i = block * kThreads + thread;
    if (i >= sheet.quads()) return;
    const Quad q = sheet.quad(i);
    const bool whole = vectors && q.count == kQuad;
    const Pack<Sum> sums = load_quad(static_cast<const Sum*>(job.sums) + q.row * job.sum_stride + q.column, q.count, whole);
    const float row_scale = job.row_scales[q.row * job.row_step];
    Pack<Out> out{};
    for (int k = 0; k < q.count; ++k)
      out.at[k] = from_f32<Out>(scaled_sum(float(sums.at[k]), row_scale, job.column_scales[(q.column + k) * job.column_step]));
    store_quad(static_cast<Out*>(job.out) + q.row * job.out_stride + q.column, q.count, whole, out);
  }
};

}  // namespace overproof::gpu
