// Every data-free scheme from bf16 in memory, with each kernel of this processor, against a memory copy of the same bytes in the
// same run. Rates are GB of input per second, with one thread per CPU-second; rows are quantized as in the stage, in tasks of
// cache size, without the disk.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "core/float_bits.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/tensor_source.h"
#include "quantize/schemes/scheme.h"

namespace {

using namespace overproof;

constexpr int64_t kRows = 16384, kColumns = 4096;  // 128 MiB of bf16: beyond any cache
constexpr int64_t kGrain = 16;                     // rows per task: 128 KiB
constexpr int64_t kChecked = 256;                  // rows compared with the scalar reference

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
    parallel_for(n, piece, [&](int64_t begin, int64_t end) {
      std::memcpy(&to[size_t(begin)], &from[size_t(begin)], size_t(end - begin) * 2);
    });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * n * 2);
  if (to != from) state.SkipWithError("the copy is wrong");
}

/// Output of the first `rows` rows.
struct Output {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  bool operator==(const Output&) const = default;
};

void quantize(const Scheme& scheme, const RowQuantizer& quantizer, int64_t rows, Output& out) {
  const int64_t row_bytes = scheme.row_bytes(kColumns), grain = std::max(kGrain, scheme.row_unit());
  out.bytes.resize(size_t(rows * row_bytes));
  out.scales.resize(size_t(scheme.row_scales(rows, kColumns)));
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t at = scheme.row_scales(begin, kColumns);
    quantizer.quantize_bf16(begin, end - begin,
                            std::span(weights()).subspan(size_t(begin * kColumns), size_t((end - begin) * kColumns)),
                            std::span(out.bytes).subspan(size_t(begin * row_bytes), size_t((end - begin) * row_bytes)),
                            std::span(out.scales).subspan(size_t(at), size_t(scheme.row_scales(end, kColumns) - at)));
  });
}

void quantize(benchmark::State& state, const std::string& name, const RowKernels* kernels) {
  const auto scheme = find_scheme(name, {});
  const auto quantizer = scheme->prepare({"benchmark.weight", DType::bf16, {kRows, kColumns}}, {});
  set_thread_count(state.range(0));
  use_row_kernels(*kernels);
  Output out, checked, expected;
  quantize(*scheme, *quantizer, kRows, out);  // so that all pages are allocated before timing
  for (auto _ : state) {
    quantize(*scheme, *quantizer, kRows, out);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * kRows * kColumns * 2);

  quantize(*scheme, *quantizer, kChecked, checked);
  use_row_kernels(scalar_row_kernels());
  quantize(*scheme, *quantizer, kChecked, expected);
  if (checked != expected || !std::equal(checked.bytes.begin(), checked.bytes.end(), out.bytes.begin()))
    state.SkipWithError("the bytes differ from the reference");
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::RegisterBenchmark("memory_copy", memory_copy)->Arg(1);
  benchmark::RegisterBenchmark("memory_copy", memory_copy)->Arg(2)->UseRealTime();
  for (const RowKernels* kernels : all_row_kernels()) {
    if (kernels == &scalar_row_kernels()) continue;  // takes minutes
    for (const std::string& name : scheme_names())
      if (name != "w8a8-static" && name != "fp8-native") {  // same work as w8a8 and fp8-block
        const std::string label = fmt::format("{}/{}", name, kernels->name);
        const auto body = [name, kernels](benchmark::State& state) { quantize(state, name, kernels); };
        benchmark::RegisterBenchmark(label.c_str(), body)->Arg(1);
        benchmark::RegisterBenchmark(label.c_str(), body)->Arg(2)->UseRealTime();
      }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
