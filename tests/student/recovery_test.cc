#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "model/sample_windows.h"
#include "records/ffn_statistics.h"
#include "student/observe_stage.h"
#include "student/recover_stage.h"
#include "student/recovery.h"
#include "student/ridge.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/recovery/recovery.safetensors";

template <class T>
at::Tensor golden(const SafetensorsFile& file, const std::string& name, at::ScalarType type) {
  const std::span<const T> values = file.values<T>(name);
  return at::from_blob(const_cast<T*>(values.data()), file.info(name).shape, type).clone();
}

/// The golden system: a shared block and four experts.
struct System {
  std::vector<FeatureBlock> blocks;
  at::Tensor residual;
  explicit System(const SafetensorsFile& file) : residual(golden<float>(file, "residual", at::kFloat)) {
    blocks.push_back({golden<float>(file, "shared", at::kFloat), {}});
    for (int e = 0; e < 4; ++e) {
      const std::string name = "expert." + std::to_string(e);
      blocks.push_back({golden<float>(file, name + ".values", at::kFloat), golden<int64_t>(file, name + ".rows", at::kLong)});
    }
  }
  std::vector<int64_t> widths() const {
    std::vector<int64_t> all;
    for (const FeatureBlock& b : blocks) all.push_back(b.values.size(1));
    return all;
  }
  /// Rows [first, first + count) as a batch.
  std::vector<FeatureBlock> batch(int64_t first, int64_t count) const {
    std::vector<FeatureBlock> part = {{blocks[0].values.narrow(0, first, count), {}}};
    for (size_t b = 1; b < blocks.size(); ++b) {
      const at::Tensor in = at::logical_and(blocks[b].rows.ge(first), blocks[b].rows.lt(first + count)).nonzero().flatten();
      part.push_back({blocks[b].values.index_select(0, in), blocks[b].rows.index_select(0, in) - first});
    }
    return part;
  }
  RidgeSystem accumulate(int64_t batch_rows) const {
    RidgeSystem system(widths(), residual.size(1));
    for (int64_t first = 0; first < residual.size(0); first += batch_rows) {
      const int64_t count = std::min(batch_rows, residual.size(0) - first);
      system.add(batch(first, count), residual.narrow(0, first, count));
    }
    return system;
  }
};

bool close(const at::Tensor& a, const at::Tensor& b) { return at::allclose(a, b, 1e-5, 1e-6); }

/// A student of TinyWorld's teacher: its FFN neurons in four experts and a shared one, two routed ones active.
Decoder tiny_student(const Decoder& teacher, const std::vector<int64_t>& order, double gate) {
  ModelConfig config = teacher.config();
  config.model_type = "glm4_moe";
  config.tie_embeddings = false;
  config.n_routed_experts = 4;
  config.n_shared_experts = 4;
  config.moe_intermediate_size = config.intermediate_size / 8;
  config.top_k = 2;
  config.routed_scaling_factor = 2.0;
  const Decoder student(config, RandomSource(config));
  const int64_t width = config.moe_intermediate_size, ff = config.intermediate_size;
  for (int64_t l = 0; l < config.layers; ++l) {
    const LayerWeights &from = teacher.layers()[size_t(l)], &to = student.layers()[size_t(l)];
    for (const auto& [a, b] : {std::pair(to.input_norm, from.input_norm), {to.post_norm, from.post_norm}, {to.q, from.q}, {to.k, from.k},
                               {to.v, from.v}, {to.o, from.o}})
      a.copy_(b);
    const auto cut = [&](int64_t first, int64_t count, const at::Tensor& gate_up, const at::Tensor& down) {
      gate_up.copy_(at::cat({from.gate_up.narrow(0, first, count), from.gate_up.narrow(0, ff + first, count)}));
      down.copy_(from.down.narrow(1, first, count));
    };
    cut(0, 4 * width, to.gate_up, to.down);
    const at::Tensor router = at::empty_like(to.router);
    Rng rng(9, "router", uint64_t(l));
    for (float& x : std::span(router.data_ptr<float>(), size_t(router.numel()))) x = float(gate * rng.normal());
    for (size_t e = 0; e < 4; ++e) {
      cut((4 + order[e]) * width, width, to.expert_gate_up[int64_t(e)], to.expert_down[int64_t(e)]);
      to.router[int64_t(e)].copy_(router[order[e]]);
    }
    to.router_bias.zero_();
  }
  student.weights().embedding.copy_(teacher.weights().embedding);
  student.weights().final_norm.copy_(teacher.weights().final_norm);
  student.weights().head.copy_(teacher.head());
  return student;
}

struct World : TinyWorld {
  at::NoGradGuard no_grad;
  Decoder teacher{open_checkpoint(path / "teacher")};
  void put_student(const Decoder& student) const {
    fs::remove_all(path / "student");
    fs::create_directories(path / "student");
    OutputFolder out(path / "student");
    save_decoder(student, out, DType::f32);
    out.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
  }
  StageReport recover(const RecoverConfig& config, const std::string& name) const {
    fs::remove_all(path / name);
    Outputs outputs = fresh(name);
    return run_recover(config,
                       Inputs({{"student", {path / "student", sha256("student")}},
                               {"teacher", {path / "teacher", sha256("teacher")}},
                               {"corpus", {path / "corpus", sha256("corpus")}}}),
                       outputs);
  }
  std::string weights(const std::string& name) const { return read_file(path / name / "model.safetensors"); }
  Decoder open(const std::string& name) const { return Decoder(open_checkpoint(path / name)); }
};

/// While it lives, the n-th write to the disk fails, and all after it.
struct FullDisk {
  explicit FullDisk(int64_t n) : before(file_calls().pwrite) {
    left = n;
    file_calls().pwrite = [](int fd, const void* from, size_t bytes, off_t at) -> ssize_t {
      if (--left > 0) return ::pwrite(fd, from, bytes, at);
      errno = ENOSPC;
      return -1;
    };
  }
  ~FullDisk() { file_calls().pwrite = before; }
  ssize_t (*before)(int, const void*, size_t, off_t);
  static inline int64_t left = 0;
};

struct Threads {
  explicit Threads(int64_t n) { set_thread_count(n); }
  ~Threads() { set_thread_count(0); }
};

RecoverConfig small() {
  RecoverConfig config;
  config.tokens = 512;
  config.min_tokens = 1;
  config.batch_size = 3;
  return config;
}

}  // namespace

TEST_CASE("the ridge solve equals torch.linalg.lstsq on the whole system, however it is cut into batches") {
  const SafetensorsFile file(kGolden);
  const System golden_system(file);
  for (const int64_t rows : {400, 64, 7}) {
    INFO(rows);
    const RidgeSystem system = golden_system.accumulate(rows);
    CHECK(system.square() == Approx(file.values<double>("square")[0]).epsilon(1e-9));
    CHECK(system.rows(4) == 3);
    const auto all = system.solve(0.05, 0);
    CHECK(all.kept.empty());
    CHECK(close(all.change, golden<double>(file, "all.0.05.change", at::kDouble)));
    CHECK(all.square == Approx(file.values<double>("all.0.05.square")[0]).epsilon(1e-6));
    for (const char* ridge : {"0.0", "0.05"}) {
      const auto kept = system.solve(std::stod(ridge), 4);
      CHECK(kept.kept == std::vector<size_t>{4});
      CHECK(close(kept.change.narrow(0, 0, 27), golden<double>(file, std::string("kept.") + ridge + ".change", at::kDouble)));
      CHECK(kept.change.narrow(0, 27, 5).abs().max().item<double>() == 0);
      CHECK(kept.square == Approx(file.values<double>(std::string("kept.") + ridge + ".square")[0]).epsilon(1e-6));
    }
  }
}

TEST_CASE("observe and recover keep attention within documents where the corpus does") {
  const World world;
  const auto make_corpus = [&](DocumentAttention attention) {
    fs::remove_all(world.path / "corpus");
    CorpusConfig config;
    config.held_out = 0;
    config.window_length = 32;
    config.document_attention = attention;
    Outputs outputs = world.fresh("corpus");
    run_corpus(config, Inputs({{"source", {world.path / "source", {}}}, {"tokenizer", {world.path / "teacher", {}}}}), outputs);
  };
  world.put_student(tiny_student(world.teacher, {0, 1, 2, 3}, 1));
  const auto observe = [&](const std::string& name) {
    Outputs outputs = world.fresh(name);
    ObserveConfig config;
    config.tokens = 512;
    config.compute = Compute::f32;
    run_observe(config, world.inputs(), outputs);
    return at::tensor(FfnStatistics(world.path / name).ffn_input(1));
  };
  make_corpus(DocumentAttention::off);
  const at::Tensor across = observe("across");
  world.recover(small(), "recovered-across");
  make_corpus(DocumentAttention::on);
  const at::Tensor within = observe("within");
  world.recover(small(), "recovered-within");

  const SampledWindows windows = sample_windows(Corpus(world.path / "corpus"), sha256("corpus"), 0, 512);
  REQUIRE(windows.segments.defined());
  REQUIRE(windows.segments.max().item<int32_t>() == 1);  // one window has both documents
  ForwardOptions options;
  options.segments = windows.segments;
  at::Tensor expected;
  options.on_ffn_input = [&](int64_t layer, const at::Tensor& x) {
    if (layer == 1) expected = x.to(at::kHalf).to(at::kFloat);
  };
  world.teacher.hidden(windows.ids, options);
  CHECK(at::allclose(within, expected.reshape({-1}), 1e-3, 1e-3));
  CHECK_FALSE(at::allclose(across, expected.reshape({-1}), 1e-3, 1e-3));
  CHECK(world.weights("recovered-within") != world.weights("recovered-across"));
}

TEST_CASE("a solve never makes the error on its own rows larger, and its bits do not depend on the threads") {
  const System system{SafetensorsFile(kGolden)};
  const RidgeSystem sums = system.accumulate(50);
  double last = 0;
  for (const double ridge : {1e-6, 1e-2, 1.0, 1e3, 1e6}) {
    const auto solution = sums.solve(ridge, 0);
    CHECK(solution.square <= sums.square() * (1 + 1e-9));
    CHECK(solution.square >= last * (1 - 1e-9));  // a larger penalty leaves more
    last = solution.square;
  }
  const int before = int(thread_count());
  std::vector<at::Tensor> changes;
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    prepare_torch();
    changes.push_back(system.accumulate(50).solve(0.01, 0).change);
  }
  set_thread_count(before);
  prepare_torch();
  CHECK(at::equal(changes[0], changes[1]));
}

TEST_CASE("a singular system without a ridge is refused with the way on") {
  RidgeSystem system({2}, 1);
  system.add({{at::ones({10, 2}), {}}}, at::ones({10, 1}));
  CHECK_THROWS_WITH(system.solve(0, 0), Catch::Contains("--ridge"));
  CHECK_NOTHROW(system.solve(1e-3, 0));
}

TEST_CASE("recover moves a sparse student towards its parent, layer by layer, and resumes with the same bytes") {
  const World world;
  const Decoder student = tiny_student(world.teacher, {0, 1, 2, 3}, 1.0);
  world.put_student(student);
  const auto target = GENERATE(RecoverConfig::Target::local, RecoverConfig::Target::residual);
  RecoverConfig config = small();
  config.target = target;
  config.passes = GENERATE(1, 2);
  config.attention = GENERATE(false, true);
  const StageReport report = world.recover(config, "out");
  for (const Json& layer : report.metrics()["layers"]) {
    INFO(layer.dump());
    CHECK(layer["error"] < layer["error_before"]);
    CHECK(layer["held_out_error"].get<double>() > 0);
  }
  const Decoder recovered = world.open("out");
  for (int64_t l = 0; l < 2; ++l) {
    const LayerWeights &before = student.layers()[size_t(l)], &after = recovered.layers()[size_t(l)];
    CHECK(at::equal(before.gate_up, after.gate_up));
    CHECK(at::equal(before.expert_gate_up, after.expert_gate_up));
    CHECK(at::equal(before.router, after.router) == (config.passes == 1));
    CHECK(at::equal(before.o, after.o) == (!config.attention || l == 0));  // nothing before layer 0 differs from the parent
    CHECK_FALSE(at::equal(before.down, after.down));
  }
  const std::string whole = world.weights("out");

  for (const int64_t threads : {1, 2, 3}) {
    CAPTURE(threads);
    const Threads set(threads);
    CHECK(world.recover(config, "threads").metrics() == report.metrics());
    CHECK(world.weights("threads") == whole);
  }

  // The disk is full at the n-th write; later there is room.
  int64_t resumed = 0;
  for (int64_t n = 1; n < 9; ++n) {
    CAPTURE(n);
    fs::remove_all(world.path / "out.scratch");
    {
      const FullDisk full(n);
      CHECK_THROWS_AS(world.recover(config, "out"), IoError);
    }
    const StageReport again = world.recover(config, "out");
    CHECK(world.weights("out") == whole);
    CHECK(again.metrics() == report.metrics());
    resumed += again.summary.back().starts_with("resumed after");
  }
  CHECK(resumed >= 2);
}

TEST_CASE("a student that is its parent is left as it is") {
  const World world;
  Decoder student = tiny_student(world.teacher, {0, 1, 2, 3}, 0.0);  // a zero gate gives every expert weight 1
  student.set_active_experts(4);
  world.put_student(student);
  const StageReport report = world.recover(small(), "out");
  CHECK(report.metrics()["error_before"].get<double>() < 1e-10);
  const Decoder recovered = world.open("out");
  for (int64_t l = 0; l < 2; ++l) {
    CHECK(at::allclose(student.layers()[size_t(l)].down, recovered.layers()[size_t(l)].down, 1e-4, 1e-5));
    CHECK(at::allclose(student.layers()[size_t(l)].expert_down, recovered.layers()[size_t(l)].expert_down, 1e-4, 1e-5));
  }
}

TEST_CASE("the order of a student's experts does not change what is recovered") {
  const World world;
  const std::vector<int64_t> order = {2, 0, 3, 1};
  world.put_student(tiny_student(world.teacher, {0, 1, 2, 3}, 1.0));
  world.recover(small(), "plain");
  world.put_student(tiny_student(world.teacher, order, 1.0));
  world.recover(small(), "permuted");
  const Decoder plain = world.open("plain"), permuted = world.open("permuted");
  for (int64_t l = 0; l < 2; ++l)
    for (size_t e = 0; e < 4; ++e)
      CHECK(at::allclose(permuted.layers()[size_t(l)].expert_down[int64_t(e)], plain.layers()[size_t(l)].expert_down[order[e]], 1e-3, 1e-4));
}

TEST_CASE("an expert with too few tokens keeps its weights and is named") {
  const World world;
  Decoder student = tiny_student(world.teacher, {0, 1, 2, 3}, 1.0);
  student.layers()[1].router_bias[3].fill_(-100);
  world.put_student(student);
  const StageReport report = world.recover(small(), "out");
  CHECK(report.metrics()["kept"] == Json::array({"layer 1 expert 3"}));
  CHECK(at::equal(world.open("out").layers()[1].expert_down[3], student.layers()[1].expert_down[3]));
}

TEST_CASE("recover refuses a parent of another shape") {
  const World world;
  ModelConfig other = tiny_config();
  other.layers += 1;
  fs::create_directories(world.path / "student");
  OutputFolder out(world.path / "student");
  save_decoder(Decoder(other, RandomSource(other)), out, DType::f32);
  out.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
  CHECK_THROWS_AS(world.recover(small(), "out"), MismatchError);
}

}  // namespace overproof
