#include "quantize/gpu/gpu_rows.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/sharded.h"
#include "quantize/engine/engine.h"
#include "quantize/quantize_stage.h"
#include "tests/quantize/grid_emulator.h"
#include "tests/support.h"

using namespace overproof;
using Fault = emulated::Device::Fault;

namespace {

/// A fresh emulated device; checks at the end that all memory was released and nothing written outside it.
struct Emulation {
  explicit Emulation(int32_t capability = 90, Fault fault = Fault::none) {
    emulated::device() = {};
    emulated::device().capability = capability;
    emulated::device().fault = fault;
  }
  ~Emulation() {
    CHECK(emulated::device().memory.empty());
    CHECK_FALSE(emulated::device().overrun);
  }
};

/// Shapes that try what kernels may get wrong: whole and ragged blocks, padding of packed rows, more groups than are added up at once, both
/// types, and a weight that is read twice for its largest magnitude.
void write_model(const fs::path& folder, float bad = 0) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"model_type": "llama"})";
  const std::string layer = "model.layers.0.";
  const std::vector<TensorInfo> infos = {
      {"model.embed_tokens.weight", DType::bf16, {7, 256}},        {layer + "self_attn.q_proj.weight", DType::bf16, {300, 256}},
      {layer + "self_attn.k_proj.weight", DType::f32, {131, 256}}, {layer + "self_attn.v_proj.weight", DType::f16, {64, 256}},
      {layer + "mlp.gate_proj.weight", DType::bf16, {259, 201}},   {layer + "mlp.up_proj.weight", DType::bf16, {5, 66 * 128}},
      {layer + "mlp.down_proj.weight", DType::f32, {129, 384}},    {layer + "self_attn.o_proj.weight", DType::bf16, {256, 384}}};
  OutputFolder out(folder);
  ShardedWriter writer(out, infos);
  for (const TensorInfo& info : infos) {
    Rng rng(5, info.name);
    std::vector<float> values(size_t(info.elements()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(rng.normal() * std::ldexp(0.02, int(rng.below(5))));
    if (bad != 0 && info.name.ends_with("o_proj.weight")) values[200 * 384 + 7] = bad;
    writer.append_f32(values);
  }
  writer.close();
}

struct Made {
  EngineResult result;
  std::string bytes;
};

Made run(const PlanOptions& options, const fs::path& model, const fs::path& at, GpuSession* gpu,
         int64_t block_bytes = EngineOptions::kDefaultBlockBytes) {
  fs::remove_all(at);
  fs::create_directories(at / "scratch");
  fs::create_directories(at / "out");
  const Checkpoint checkpoint = open_checkpoint(model);
  const Plan plan = make_plan(options, checkpoint);
  Outputs outputs(at / "out", at / "scratch");
  const SinkMaker make_sink = [](OutputFolder& to, const std::vector<TensorInfo>& list) {
    return std::make_unique<ShardedWriter>(to, list);
  };
  Made made{run_engine(plan, checkpoint, make_sink, outputs, {.block_bytes = block_bytes, .gpu = gpu}), {}};
  made.bytes = read_file(at / "out" / "model.safetensors");
  return made;
}

struct PluginName {
  explicit PluginName(const char* value) { setenv("OVERPROOF_GPU_PLUGIN", value, 1); }
  ~PluginName() { unsetenv("OVERPROOF_GPU_PLUGIN"); }
};

}  // namespace

TEST_CASE("the engine with a GPU's kernels writes the bytes of the CPU, and sums the same errors, for every scheme") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Emulation emulation;
  GpuSession gpu(emulated::api(), 0);
  const PlanOptions per_tensor{.scheme = "fp8", .scheme_options = {.per_tensor = true}};
  const std::vector<PlanOptions> covered = {
      {.scheme = "int8"}, {.scheme = "int8-g128"}, {.scheme = "w8a8"},      {.scheme = "fp8"},
      per_tensor,         {.scheme = "fp8-block"}, {.scheme = "fp8-native"}};
  for (const PlanOptions& options : covered) {
    CAPTURE(options.scheme, options.scheme_options.per_tensor);
    const Made cpu = run(options, t.path() / "in", t.path() / "cpu", nullptr);
    CHECK(cpu.result.by_gpu == 0);
    for (const auto& [threads, block] :
         {std::pair{int64_t{1}, EngineOptions::kDefaultBlockBytes}, {int64_t{3}, int64_t{1} << 16}}) {
      set_thread_count(threads);
      const int64_t walked = emulated::device().blocks;
      const Made made = run(options, t.path() / "in", t.path() / "gpu", &gpu, block);
      const int weights = options.scheme == "fp8-block" || options.scheme == "fp8-native" ? 1 : 7;  // whose loaders take whole blocks
      CHECK(made.result.by_gpu == weights);
      CHECK(emulated::device().blocks > walked + weights);
      CHECK(made.bytes == cpu.bytes);
      REQUIRE(made.result.errors.size() == cpu.result.errors.size());
      for (size_t i = 0; i < cpu.result.errors.size(); ++i) {
        CAPTURE(i);
        CHECK(made.result.errors[i].signal == cpu.result.errors[i].signal);
        CHECK(made.result.errors[i].noise == cpu.result.errors[i].noise);
      }
    }
    set_thread_count(0);
  }
}

TEST_CASE("a device that computes something else changes the bytes, so the test above compares the device") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Emulation emulation(90, Fault::flipped_code);
  GpuSession gpu(emulated::api(), 0);
  CHECK(run({}, t.path() / "in", t.path() / "gpu", &gpu).bytes != run({}, t.path() / "in", t.path() / "cpu", nullptr).bytes);
}

TEST_CASE("schemes without kernels use the CPU") {
  const TempFolder t;
  write_model(t.path() / "in");
  const Emulation emulation;
  GpuSession gpu(emulated::api(), 0);
  const SchemeOptions mse{.clipping = Clipping::mse};
  for (const PlanOptions& options : std::vector<PlanOptions>{{.scheme = "mxfp8", .exclude = {"*.gate_proj.weight", "*.up_proj.weight"}},
                                                             {.scheme = "int8", .scheme_options = mse},
                                                             {.scheme = "fp8", .scheme_options = mse}}) {
    CAPTURE(options.scheme);
    const Made made = run(options, t.path() / "in", t.path() / "gpu", &gpu);
    CHECK(made.result.by_gpu == 0);
    CHECK(emulated::device().blocks == 0);
    CHECK(made.bytes == run(options, t.path() / "in", t.path() / "cpu", nullptr).bytes);
  }
}

TEST_CASE("a GPU names the tensor and row of an infinity or NaN as the CPU does, and a device that fails ends the run") {
  const TempFolder t;
  for (const float bad : {HUGE_VALF, std::nanf("")}) {
    write_model(t.path() / "bad", bad);
    const Emulation emulation;
    GpuSession gpu(emulated::api(), 0);
    for (const PlanOptions& options : std::vector<PlanOptions>{
             {.scheme = "int8"}, {.scheme = "fp8-block"}, {.scheme = "fp8", .scheme_options = {.per_tensor = true}}}) {
      CAPTURE(options.scheme, bad);
      CHECK_THROWS_WITH(run(options, t.path() / "bad", t.path() / "gpu", &gpu),
                        Catch::Contains("o_proj.weight row 200 holds an infinity or NaN"));
      CHECK(fs::is_empty(t.path() / "gpu" / "out"));
    }
  }
  write_model(t.path() / "in");
  const Emulation emulation(90, Fault::failing_call);
  GpuSession gpu(emulated::api(), 0);
  CHECK_THROWS_AS(run({}, t.path() / "in", t.path() / "gpu", &gpu), IoError);
  CHECK_THROWS_WITH(run({}, t.path() / "in", t.path() / "gpu", &gpu), Catch::Contains("fell off the bus"));
}

TEST_CASE("a device is opened when it is requested and exists") {
  std::string note;
  const GpuPlugin plugin{&emulated::api(), "emulated", ""};
  {
    const Emulation emulation;
    CHECK(open_device(DeviceChoice::cpu, plugin, note) == nullptr);
    CHECK(open_device(DeviceChoice::cuda, plugin, note) != nullptr);
    CHECK(open_device(DeviceChoice::automatic, plugin, note) != nullptr);
    CHECK(note.empty());
  }
  {
    const Emulation old(75);
    CHECK_THROWS_AS(open_device(DeviceChoice::cuda, plugin, note), UsageError);
    CHECK(open_device(DeviceChoice::automatic, plugin, note) == nullptr);
    CHECK_THAT(note, Catch::Contains("on the CPU") && Catch::Contains("7.5"));
  }
  const Emulation none(90, Fault::no_driver);
  CHECK_THROWS_WITH(open_device(DeviceChoice::cuda, plugin, note), Catch::Contains("driver is missing"));
  CHECK(open_device(DeviceChoice::automatic, plugin, note) == nullptr);
  CHECK_THAT(note, Catch::Contains("on the CPU") && Catch::Contains("driver is missing"));
}

TEST_CASE("without a GPU, cuda is refused, and auto reports that it used the CPU and changes nothing else") {
  const TempFolder t;
  write_model(t.path() / "in");
  const PluginName name("/nowhere/liboverproof_cuda.so");
  const auto stage = [&](const std::string& device) {
    fs::create_directories(t.path() / device);
    Outputs outputs(t.path() / device, t.path() / "scratch");
    QuantizeConfig config;
    Options options = options_of(config);
    find_option(options, "device", "quantize").assign(device);
    return run_quantize(config, Inputs({{"model", {t.path() / "in", {}}}}), outputs);
  };
  CHECK_THROWS_AS(stage("cuda"), UsageError);
  CHECK_THROWS_WITH(stage("cuda"), Catch::Contains("no GPU plugin") && Catch::Contains("device cpu"));
  CHECK(fs::is_empty(t.path() / "cuda"));
  const StageReport by_auto = stage("auto"), by_cpu = stage("cpu");
  const auto says_cpu = [](const StageReport& r) {
    return std::ranges::any_of(
        r.summary, [](const std::string& line) { return line.starts_with("note: quantized on the CPU: no GPU plugin"); });
  };
  CHECK(says_cpu(by_auto));
  CHECK_FALSE(says_cpu(by_cpu));
  CHECK(by_auto.metrics() == by_cpu.metrics());
  CHECK(read_file(t.path() / "auto" / "model.safetensors") == read_file(t.path() / "cpu" / "model.safetensors"));
}
