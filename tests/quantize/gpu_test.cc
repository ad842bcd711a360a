#include "quantize/gpu/gpu.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "quantize/gpu/gpu_report.h"
#include "quantize/gpu/gpu_self_test.h"
#include "quantize/kernels/int8_cpu.h"
#include "tests/quantize/grid_emulator.h"
#include "tests/skip.h"

using namespace overproof;
using Fault = emulated::Device::Fault;

namespace {

/// A fresh emulated device; checks at the end that all memory was released and nothing written outside it.
struct Emulation {
  explicit Emulation(int32_t capability, Fault fault = Fault::none) {
    emulated::device() = {};
    emulated::device().capability = capability;
    emulated::device().fault = fault;
  }
  ~Emulation() {
    CHECK(emulated::device().memory.empty());
    CHECK_FALSE(emulated::device().overrun);
  }
};

std::vector<float> random_values(int64_t n, std::string_view stream) {
  Rng rng(3, stream);
  std::vector<float> values(n);
  for (float& x : values) x = float(rng.normal());
  return values;
}

struct Operand {
  CodeMatrix matrix;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

Operand quantized(ElementType type, const ScaleTiles& tiles, std::string_view stream) {
  Operand o{{type, tiles, nullptr, nullptr}, std::vector<uint8_t>(tiles.rows * tiles.columns), std::vector<float>(tiles.count())};
  const std::vector<float> x = random_values(tiles.rows * tiles.columns, stream);
  uint64_t bad = kNoBadRow;
  quantize_tiles({tiles, ElementType::f32, type, 0, 0, x.data(), tiles.columns, o.codes.data(), tiles.columns, o.scales.data(),
                  &bad, nullptr});
  REQUIRE(bad == kNoBadRow);
  o.matrix.codes = o.codes.data();
  o.matrix.scales = o.scales.data();
  return o;
}

double exact_value(const Operand& o, int64_t row, int64_t column) {
  const ScaleTiles& t = o.matrix.tiles;
  const uint8_t code = o.codes[row * t.columns + column];
  const double value = o.matrix.type == ElementType::int8 ? double(int8_t(code)) : double(f8_e4m3_to_f32(code));
  return value * o.scales[row / t.tile_rows * t.across() + column / t.tile_columns];
}

GemmPlan plan_for(int32_t capability, ElementType codes, GemmScaling scaling, int64_t tokens = 7, int64_t outputs = 250,
                  int64_t columns = 300, ElementType out = ElementType::bf16) {
  return choose_gemm_plan({capability, codes, scaling, tokens, outputs, columns, out});
}

/// Sets $OVERPROOF_GPU_PLUGIN for a while.
struct PluginName {
  explicit PluginName(const char* value) { setenv("OVERPROOF_GPU_PLUGIN", value, 1); }
  ~PluginName() { unsetenv("OVERPROOF_GPU_PLUGIN"); }
};

}  // namespace

TEST_CASE("fp8 codes of every bf16 value are PyTorch's") {
  const std::string golden = read_file(fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/f8_e4m3/codes_of_bf16.u8");
  REQUIRE(golden.size() == 65536);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint8_t code = f32_to_f8_e4m3(bf16_to_f32(uint16_t(bits))), expected = uint8_t(golden[bits]);
    if (code != expected) FAIL("bf16 " << bits << ": " << int(code) << " instead of " << int(expected));
  }
}

TEST_CASE("fp8 rounds to nearest, ties to even, at every code and between") {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = f8_e4m3_to_f32(uint8_t(code)), high = f8_e4m3_to_f32(uint8_t(code + 1)),
                middle = (low + high) / 2;  // exact
    CHECK(int(f32_to_f8_e4m3(low)) == code);
    CHECK(int(f32_to_f8_e4m3(middle)) == (code % 2 == 0 ? code : code + 1));
    CHECK(int(f32_to_f8_e4m3(std::nextafter(middle, 0.0f))) == code);
    CHECK(int(f32_to_f8_e4m3(std::nextafter(middle, 1e9f))) == code + 1);
    CHECK(int(f32_to_f8_e4m3(-std::nextafter(middle, 1e9f))) == code + 1 + 128);
  }
  CHECK(int(fp8_code(1e30f, 1.0f)) == 0x7e);  // saturates
  CHECK(int(fp8_code(-3e38f, 1e-30f)) == 0xfe);
  CHECK(fp8_scale(448.0f) == 1.0f);
  CHECK(fp8_scale(0.0f) == 1.0f);
  CHECK(fp8_scale(1e-37f) == 1.0f);
}

TEST_CASE("kernel bodies on an emulated grid equal the CPU code for code, and products the reference, for every architecture") {
  const auto notes = [](int32_t capability, GpuParts parts) {
    const Emulation emulation(capability);
    GpuSession gpu(emulated::api(), 0);
    std::set<std::string> seen;
    for (const GpuCheck& check : gpu_self_test(gpu, parts)) {
      INFO(capability << ": " << check.name << ": " << check.different << " of " << check.compared << " differ; " << check.note);
      CHECK(check.passed);
      if (!check.note.empty()) seen.insert(check.note);
    }
    CHECK(emulated::device().blocks > (parts == GpuParts::all ? 10000 : 100));
    return seen;
  };
  const std::string int8(to_string(GemmPath::int8_then_scale)), scalar(to_string(GemmPath::f8_scalar)),
      then(to_string(GemmPath::f8_then_scale)), widened(to_string(GemmPath::widen_then_scale)),
      dequantized(to_string(GemmPath::dequantize)), vectors(to_string(GemmPath::f8_vector)), block(to_string(GemmPath::f8_block));
  CHECK(notes(80, GpuParts::products) == std::set{int8, widened, dequantized});
  CHECK(notes(89, GpuParts::products) == std::set{int8, scalar, then, dequantized});
  CHECK(notes(90, GpuParts::all) == std::set{int8, scalar, vectors, block, dequantized});
  CHECK(notes(100, GpuParts::products) == std::set{int8, scalar, then, dequantized});
}

TEST_CASE("the self-test finds a wrong code, a wrong sum and a device that fails") {
  struct Count {
    int64_t failed = 0, all = 0;
  };
  const auto run = [](Fault fault, GpuParts parts) {
    const Emulation emulation(90, fault);
    GpuSession gpu(emulated::api(), 0);
    std::map<std::string, Count> counts;
    for (const GpuCheck& check : gpu_self_test(gpu, parts)) {
      Count& count = counts[check.name.substr(0, check.name.find(' '))];
      ++count.all;
      count.failed += !check.passed;
    }
    return counts;
  };
  auto flipped = run(Fault::flipped_code, GpuParts::codes);
  CHECK(flipped["quantize"].failed == flipped["quantize"].all);
  CHECK(flipped["quantize"].all > 80);
  CHECK(flipped["dequantize"].failed == 0);
  auto wrong = run(Fault::wrong_sum, GpuParts::products);
  CHECK(wrong["multiply"].all == 48);
  CHECK(wrong["multiply"].failed >= 44);  // the rest is within what operands rounded to bf16 may be off by
  auto failing = run(Fault::failing_call, GpuParts::codes);
  CHECK(failing["quantize"].failed == failing["quantize"].all);
  CHECK(failing["dequantize"].failed == failing["dequantize"].all);
}

TEST_CASE("emulated int8 rows equal the CPU's production kernel, strides and all") {
  const Emulation emulation(80);
  GpuSession gpu(emulated::api(), 0);
  constexpr int64_t kRows = 37, kColumns = 601, kStride = 640;
  const std::vector<float> x = random_values(kRows * kStride, "gpu_test/rows");
  std::vector<uint8_t> codes(kRows * kStride, 0xee);
  std::vector<float> scales(kRows);
  uint64_t bad = kNoBadRow;
  gpu.quantize({per_row(kRows, kColumns), ElementType::f32, ElementType::int8, 0, 0x80, x.data(), kStride, codes.data(), kStride,
                scales.data(), &bad, nullptr});
  CHECK(bad == kNoBadRow);
  for (int64_t r = 0; r < kRows; ++r) {
    std::vector<int8_t> expected(kColumns);
    const Int8Row row = quantize_int8_row(std::span(x).subspan(r * kStride, kColumns), expected, Clipping::absmax);
    REQUIRE(row.scale == scales[r]);
    for (int64_t c = 0; c < kColumns; ++c)
      REQUIRE(int(codes[r * kStride + c]) == int(expected[c]) + 128);  // as packed formats store them
    REQUIRE(std::all_of(&codes[r * kStride + kColumns], &codes[(r + 1) * kStride], [](uint8_t c) { return c == 0xee; }));
  }
}

TEST_CASE("error sums are those of double precision up to rounding") {
  const Emulation emulation(90);
  GpuSession gpu(emulated::api(), 0);
  const ScaleTiles tiles = per_group(9, 1000, 384);
  const std::vector<float> x = random_values(9 * 1000, "gpu_test/errors");
  for (const ElementType type : {ElementType::int8, ElementType::f8_e4m3}) {
    Operand o{{type, tiles, nullptr, nullptr}, std::vector<uint8_t>(x.size()), std::vector<float>(tiles.count())};
    std::vector<TileError> errors(9 * 3);
    uint64_t bad = kNoBadRow;
    gpu.quantize({tiles, ElementType::f32, type, 0, 0, x.data(), 1000, o.codes.data(), 1000, o.scales.data(), &bad, nullptr},
                 errors.data());
    for (int64_t row = 0; row < 9; ++row)
      for (int64_t j = 0; j < 3; ++j) {
        double signal = 0, noise = 0;
        for (int64_t c = j * 384; c < std::min<int64_t>(1000, (j + 1) * 384); ++c) {
          signal += double(x[row * 1000 + c]) * x[row * 1000 + c];
          noise += std::pow(x[row * 1000 + c] - exact_value(o, row, c), 2);
        }
        CHECK(errors[row * 3 + j].signal == Approx(signal).epsilon(1e-5));
        CHECK(errors[row * 3 + j].noise == Approx(noise).epsilon(1e-4));
      }
  }
}

TEST_CASE("kernels write nothing beyond ragged edges when rows have no gap between them") {
  const Emulation emulation(90);
  for (const ScaleTiles& tiles :
       {per_row(9, 37), per_group(9, 37, 6), per_group(9, 38, 7), per_block(9, 37, 5), per_tensor(700, 201), per_row(3, 3)})
    for (const ElementType type : {ElementType::int8, ElementType::f8_e4m3}) {
      const int64_t n = tiles.rows * tiles.columns;
      CAPTURE(tiles.columns, tiles.tile_columns);
      // A NaN behind the matrix, and codes and values there that must stay.
      std::vector<float> x = random_values(n, "gpu_test/ragged");
      x.push_back(std::nanf(""));
      std::vector<uint8_t> codes(n + 4, 0xee), expected(n + 4, 0xee);
      std::vector<float> scales(tiles.count()), expected_scales(tiles.count());
      std::vector<uint32_t> magnitudes(tiles.count());
      uint64_t bad = kNoBadRow;
      QuantizeJob job{tiles, ElementType::f32, type, 0, 0, x.data(), tiles.columns, codes.data(), tiles.columns, scales.data(),
                      &bad,  magnitudes.data()};
      REQUIRE(emulated::walk(job) == 0);
      job.codes = expected.data();
      job.scales = expected_scales.data();
      quantize_tiles(job);
      CHECK(codes == expected);
      CHECK(scales == expected_scales);
      CHECK(bad == kNoBadRow);

      std::vector<float> values(n + 4, 7.0f), expected_values(n + 4, 7.0f);
      DequantizeJob back{tiles, type, ElementType::f32, codes.data(), tiles.columns, scales.data(), values.data(), tiles.columns};
      REQUIRE(emulated::walk(back) == 0);
      back.out = expected_values.data();
      dequantize_tiles(back);
      CHECK(values == expected_values);

      std::vector<uint16_t> out(n + 4, 7), expected_out(n + 4, 7);
      const std::vector<float> by_row = random_values(tiles.rows, "gpu_test/rows"),
                               by_column = random_values(tiles.columns, "gpu_test/columns");
      for (int64_t i = 0; i < n; ++i)
        expected_out[i] = f32_to_bf16((x[i] * by_row[i / tiles.columns]) * by_column[i % tiles.columns]);
      REQUIRE(emulated::walk(ScaleJob{tiles.rows, tiles.columns, ElementType::f32, ElementType::bf16, x.data(), tiles.columns,
                                      by_row.data(), by_column.data(), 1, 1, out.data(), tiles.columns}) == 0);
      CHECK(out == expected_out);
    }
}

TEST_CASE("the first row with an infinity or NaN is named, and its tile gets the code 0 and a NaN") {
  const Emulation emulation(100);
  GpuSession gpu(emulated::api(), 0);
  for (const auto& [tiles, tile] : {std::pair{per_row(300, 260), 131},
                                    {per_group(300, 260, 128), 131 * 3 + 2},
                                    {per_block(300, 260, 128), 5},
                                    {per_tensor(600, 260), 0}}) {
    std::vector<float> x = random_values(tiles.rows * tiles.columns, "gpu_test/nan");
    x[131 * 260 + 258] = std::nanf("");
    x[200 * 260 + 259] = HUGE_VALF;
    std::vector<uint8_t> codes(x.size());
    std::vector<float> scales(tiles.count());
    uint64_t bad = kNoBadRow;
    gpu.quantize(
        {tiles, ElementType::f32, ElementType::f8_e4m3, 0, 0, x.data(), 260, codes.data(), 260, scales.data(), &bad, nullptr});
    CHECK(bad == 131);
    CHECK(f32_bits(scales[tile]) == 0x7fc00000u);
    CHECK(int(codes[131 * 260 + 257]) == 0);
  }
}

TEST_CASE("what each architecture multiplies with") {
  using E = ElementType;
  using S = GemmScaling;
  for (const int32_t capability : {80, 86, 89, 90, 100, 103, 110, 120}) {
    CAPTURE(capability);
    const GemmPlan int8 = plan_for(capability, E::int8, S::token_channel);
    CHECK(int8.path == GemmPath::int8_then_scale);
    CHECK(int8.job.ab == E::int8);
    CHECK(int8.job.d == E::int32);
    CHECK(int8.columns == 304);
    CHECK(int8.outputs == 252);
    CHECK(int8.tokens == 7);
    CHECK((int8.job.m == 252 && int8.job.n == 7 && int8.job.k == 304 && int8.job.lda == 304 && int8.job.ldb == 304 &&
           int8.job.ldd == 252));
    CHECK(int8.job.split_k == 1);  // integers add in any order
    CHECK(int8.scale_after);
    CHECK(int8.job.workspace_bytes == (capability >= 90 ? 32 << 20 : 4 << 20));
    CHECK(plan_for(capability, E::int8, S::block_128).path == GemmPath::dequantize);
    CHECK(plan_for(capability, E::int8, S::token_channel, 1, 8, kInt8Columns).path == GemmPath::int8_then_scale);
    CHECK(plan_for(capability, E::int8, S::token_channel, 1, 8, kInt8Columns + 1).path == GemmPath::widen_then_scale);

    const GemmPlan tensor = plan_for(capability, E::f8_e4m3, S::per_tensor),
                   vectors = plan_for(capability, E::f8_e4m3, S::token_channel),
                   block = plan_for(capability, E::f8_e4m3, S::block_128);
    CHECK(tensor.path == (capability < 89 ? GemmPath::widen_then_scale : GemmPath::f8_scalar));
    CHECK(vectors.path == (capability < 89    ? GemmPath::widen_then_scale
                           : capability == 90 ? GemmPath::f8_vector
                                              : GemmPath::f8_then_scale));
    CHECK(block.path == (capability == 90 ? GemmPath::f8_block : GemmPath::dequantize));
    for (const GemmPlan& plan : {tensor, vectors, block}) {
      CHECK(plan.operand == plan.job.ab);
      CHECK(plan.job.split_k == 0);
      CHECK(plan.columns * element_bytes(plan.operand) % 16 == 0);
      CHECK(plan.outputs * element_bytes(plan.job.d) % 16 == 0);
      CHECK((plan.tokens >= 7 && plan.outputs >= 250 && plan.columns >= 300));
      CHECK((plan.job.a_scale == MatmulScale::none || plan.operand == E::f8_e4m3));
    }
  }
  const GemmPlan block = plan_for(90, E::f8_e4m3, S::block_128, 7, 250, 1000);
  CHECK(block.tokens == 8);
  CHECK(block.outputs == 256);
  CHECK(block.job.a_scale == MatmulScale::block_128);
  CHECK(block.job.b_scale == MatmulScale::vector_128);
  CHECK(block.activation_scales.scale_index(5, 3) == 3 * 8 + 5);  // tokens side by side
  CHECK(block.weight_scales.scale_index(1, 3) == 1 * 8 + 3);      // 8 blocks of columns, a multiple of 4
  CHECK(plan_for(90, E::f8_e4m3, S::block_128, 7, 250, 1100).weight_scales.row_step == 12);
  CHECK(plan_for(90, E::f8_e4m3, S::block_128, 7, 250, 1100).weight_scale_count == 24);
  CHECK_THROWS_WITH(plan_for(75, E::int8, S::token_channel), Catch::Contains("7.5") && Catch::Contains("--device cpu"));
  CHECK_THROWS_AS(plan_for(90, E::int8, S::token_channel, 0), MismatchError);
  CHECK_THROWS_AS(plan_for(90, E::int8, S::token_channel, 1, int64_t{1} << 31), MismatchError);
}

TEST_CASE("the reference product is within its stated bound of exact arithmetic, and int8 is exact") {
  using E = ElementType;
  constexpr int64_t kTokens = 6, kOutputs = 130, kColumns = 1000;
  const std::vector<std::pair<ScaleTiles, ScaleTiles>> pairs = {
      {per_tensor(kTokens, kColumns), per_tensor(kOutputs, kColumns)},
      {per_row(kTokens, kColumns), per_row(kOutputs, kColumns)},
      {per_group(kTokens, kColumns, 128), per_block(kOutputs, kColumns, 128)}};
  for (const E type : {E::int8, E::f8_e4m3})
    for (const auto& [x_tiles, w_tiles] : pairs) {
      const Operand x = quantized(type, x_tiles, "gpu_test/x"), w = quantized(type, w_tiles, "gpu_test/w");
      std::vector<float> out(kTokens * kOutputs);
      reference_gemm(x.matrix, w.matrix, out.data());
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t n = 0; n < kOutputs; ++n) {
          double exact = 0, size = 0;
          for (int64_t k = 0; k < kColumns; ++k) {
            const double product = exact_value(x, t, k) * exact_value(w, n, k);
            exact += product;
            size += std::abs(product);
          }
          REQUIRE(std::abs(out[t * kOutputs + n] - exact) <= (129 + kColumns / 128.0) * 0x1p-24 * size);
          // An exact integer sum is rounded once to f32 and twice by the scales.
          if (type == E::int8 && x_tiles.tile_columns == kColumns)
            REQUIRE(std::abs(out[t * kOutputs + n] - exact) <= 3.01 * 0x1p-24 * std::abs(exact));
        }
    }
  const Operand x = quantized(E::int8, pairs[1].first, "gpu_test/x"), w = quantized(E::int8, pairs[2].second, "gpu_test/w");
  CHECK_THROWS_WITH(gemm_scaling(x.matrix, w.matrix), Catch::Contains("token x channel"));
}

TEST_CASE("a message names what a GPU needs and the option for the CPU") {
  {
    const PluginName name("/nowhere/liboverproof_cuda.so");
    const GpuPlugin plugin = open_gpu_plugin();
    CHECK(plugin.api == nullptr);
    CHECK_THAT(plugin.reason, Catch::Contains("/nowhere/liboverproof_cuda.so") && Catch::Contains("CUDA toolkit"));
    CHECK_THROWS_WITH(require_gpu(plugin), Catch::Contains("--device cpu"));
  }
  {
    const PluginName name(OVERPROOF_SOURCE_DIR "/README.md");
    CHECK_THAT(open_gpu_plugin().reason, Catch::Contains("cannot be loaded"));
  }
  {
    const PluginName name("/lib/x86_64-linux-gnu/libm.so.6");
    if (fs::exists("/lib/x86_64-linux-gnu/libm.so.6"))
      CHECK_THAT(open_gpu_plugin().reason, Catch::Contains("not a GPU plugin of this version"));
  }
  const Emulation emulation(90, Fault::no_driver);
  std::string reason;
  CHECK(gpu_devices(emulated::api(), reason).empty());
  CHECK_THAT(reason, Catch::Contains("emulated driver is missing"));
  CHECK_THROWS_AS(require_gpu({&emulated::api(), {}, {}}), UsageError);
}

TEST_CASE("the verb lists devices, and prints 'not run' when there is none") {
  const PluginName name("/nowhere/liboverproof_cuda.so");
  const Answer listing = run_gpu({}), tested = run_gpu({.self_test = true});
  CHECK(listing.exit_code == 0);
  CHECK_THAT(listing.text, Catch::Contains("no GPU plugin") && !Catch::Contains("self-test"));
  CHECK(tested.exit_code == 5);
  CHECK_THAT(tested.text, Catch::Contains("self-test: not run") && !Catch::Contains("equal") && !Catch::Contains("passed"));
  const Json& result = tested.json;
  CHECK(result["self_test"] == "not run");
  CHECK(result["devices"].empty());
  CHECK(result["plugin"].is_null());
}

#ifdef OVERPROOF_CUDA_PLUGIN
TEST_CASE("the CUDA plugin loads, and cuBLASLt accepts the description of every plan") {
  const PluginName name(OVERPROOF_CUDA_PLUGIN);
  const GpuPlugin plugin = open_gpu_plugin();
  INFO(plugin.reason);
  REQUIRE(plugin.api != nullptr);
  CHECK(plugin.file == OVERPROOF_CUDA_PLUGIN);
  // Without a device cuBLASLt checks the names and sizes of attributes only.
  for (const int32_t capability : {80, 89, 90, 100})
    for (const ElementType codes : {ElementType::int8, ElementType::f8_e4m3})
      for (const GemmScaling scaling : {GemmScaling::per_tensor, GemmScaling::token_channel, GemmScaling::block_128})
        for (const ElementType out : {ElementType::f32, ElementType::bf16}) {
          const MatmulJob job = plan_for(capability, codes, scaling, 7, 250, 300, out).job;
          CHECK(plugin.api->check_matmul(&job) == 0);
        }
  std::string reason;
  const std::vector<GpuDeviceInfo> devices = gpu_devices(*plugin.api, reason);
  if (devices.empty()) {
    CHECK_THAT(reason, Catch::Contains("no CUDA d"));
    void* session = nullptr;
    CHECK(plugin.api->open(0, &session) != 0);  // a call without a device fails with a message
    CHECK(session == nullptr);
    CHECK(std::string(plugin.api->last_error()).size() > 10);
    CHECK_THROWS_AS(GpuSession(*plugin.api, 0), IoError);
  }
}

TEST_CASE("with a device, the GPU equals the CPU", "[hardware-gpu]") {
  const PluginName name(OVERPROOF_CUDA_PLUGIN);
  const GpuPlugin plugin = open_gpu_plugin();
  REQUIRE(plugin.api != nullptr);
  std::string reason = "no device of compute capability 8.0 or later";
  const std::vector<GpuDeviceInfo> devices = gpu_devices(*plugin.api, reason);
  if (std::ranges::none_of(devices, [](const GpuDeviceInfo& d) { return d.capability >= kOldestCapability; })) SKIP_CASE(reason);
  for (int32_t i = 0; i < int32_t(devices.size()); ++i) {
    if (devices[i].capability < kOldestCapability) continue;
    GpuSession gpu(*plugin.api, i);
    for (const GpuCheck& check : gpu_self_test(gpu)) {
      INFO(devices[i].name << ": " << check.name << ": " << check.different << " of " << check.compared << " differ; "
                           << check.note);
      CHECK(check.passed);
    }
  }
}
#endif
