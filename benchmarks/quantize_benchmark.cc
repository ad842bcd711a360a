// int8 per channel from bf16 in memory, against a memory copy of the same bytes in the same run. Rates are GB of input a
// second; rows are converted, quantised and packed as the stage does it, tasks of cache size, without the disk.

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "core/float_bits.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/tensor_source.h"
#include "quantize/scheme.h"

namespace {

using namespace overproof;

constexpr int64_t kRows = 16384, kColumns = 4096;  // 128 MiB of bf16: beyond any cache
constexpr int64_t kGrain = 8;

const std::vector<uint16_t>& weights() {
  static const std::vector<uint16_t> data = [] {
    std::vector<uint16_t> bits(size_t(kRows * kColumns));
    parallel_for(kRows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        Rng rng(1, "benchmark/weights", uint64_t(r));
        for (int64_t c = 0; c < kColumns; ++c) bits[size_t(r * kColumns + c)] = f32_to_bf16(float(rng.uniform() - 0.5) * 0.1f);
      }
    });
    return bits;
  }();
  return data;
}

void memory_copy(benchmark::State& state) {
  set_thread_count(state.range(0));
  const std::vector<uint16_t>& from = weights();
  std::vector<uint16_t> to(from.size());
  const int64_t piece = int64_t{1} << 20, n = int64_t(from.size());
  for (auto _ : state) {
    parallel_for(n, piece, [&](int64_t begin, int64_t end) { std::memcpy(&to[size_t(begin)], &from[size_t(begin)], size_t(end - begin) * 2); });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * n * 2);
  if (to != from) state.SkipWithError("the copy is wrong");
}

void int8_per_channel(benchmark::State& state) {
  set_thread_count(state.range(0));
  const std::vector<uint16_t>& from = weights();
  const auto scheme = find_scheme("int8", Int8Scale::absmax);
  const int64_t bytes = scheme->row_bytes(kColumns);
  std::vector<uint8_t> codes(size_t(kRows * bytes));
  std::vector<float> scales(static_cast<size_t>(kRows));
  for (auto _ : state) {
    parallel_for(kRows, kGrain, [&](int64_t begin, int64_t end) {
      thread_local std::vector<float> values(size_t(kGrain * kColumns));
      elements_to_f32(DType::bf16, reinterpret_cast<const uint8_t*>(&from[size_t(begin * kColumns)]),
                      std::span(values).first(size_t((end - begin) * kColumns)));
      for (int64_t r = begin; r < end; ++r)
        scheme->quantize_row(std::span(values).subspan(size_t((r - begin) * kColumns), size_t(kColumns)),
                             std::span(codes).subspan(size_t(r * bytes), size_t(bytes)), std::span(scales).subspan(size_t(r), 1));
    });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * kRows * kColumns * 2);

  // Every weight is back within half a step.
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    const float scale = scales[size_t(i / kColumns)], x = bf16_to_f32(from[size_t(i)]);
    const float back = float(int(codes[size_t(i)]) - 128) * scale;
    if (!(back - x <= 0.50001f * scale && x - back <= 0.50001f * scale)) return state.SkipWithError("a weight is off by more than half a step");
  }
}

void int8_kernel_in_cache(benchmark::State& state, const Int8Kernel* kernel) {
  if (kernel == nullptr) return state.SkipWithError("this processor lacks the instructions");
  std::vector<float> row(static_cast<size_t>(kColumns));
  elements_to_f32(DType::bf16, reinterpret_cast<const uint8_t*>(weights().data()), row);
  std::vector<int8_t> codes(row.size()), expected(row.size());
  for (auto _ : state) benchmark::DoNotOptimize(quantize_int8_row(row, codes, Int8Scale::absmax, *kernel));
  state.SetBytesProcessed(int64_t(state.iterations()) * kColumns * 4);
  quantize_int8_row(row, expected, Int8Scale::absmax, int8_scalar_kernel());
  if (codes != expected) state.SkipWithError("the codes differ from the reference");
}

BENCHMARK(memory_copy)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(int8_per_channel)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(int8_kernel_in_cache, scalar, &int8_scalar_kernel());
BENCHMARK_CAPTURE(int8_kernel_in_cache, avx2, int8_avx2_kernel());

}  // namespace

BENCHMARK_MAIN();
