#include "evaluate/activations_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "model/ops/linear.h"
#include "model/ops/rms_norm.h"
#include "model/sample_windows.h"
#include "quantize/calibration/calibration.h"
#include "quantize/quantize_stage.h"
#include "records/activation_statistics.h"
#include "records/resume.h"
#include "student/tiny_teacher_stage.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

using namespace overproof;

namespace {

constexpr int64_t kLength = 16, kTokens = 96;
const Digest kModelRoot = sha256("model"), kCorpusRoot = sha256("corpus");

StageReport observe_in(const fs::path& world, const ActivationsConfig& options) {
  fs::remove_all(world / "activations");
  fs::create_directories(world / "activations");
  ActivationsConfig named = options;
  Outputs outputs(world / "activations", world / "scratch", {}, sha256(to_json(options_of(named)).dump()));
  return run_activations(options, Inputs({{"model", {world / "model", kModelRoot}}, {"corpus", {world / "corpus", kCorpusRoot}}}),
                         outputs);
}

/// A random model with a tokenizer, some channels much louder than others, and a corpus of random ids.
struct Fixture {
  TempFolder folder;
  ModelConfig config;
  explicit Fixture(ModelConfig c) : config(std::move(c)) {
    config.vocab_size = 257;
    fs::create_directories(folder.path() / "model");
    OutputFolder out(folder.path() / "model");
    Decoder decoder(config, RandomSource(config));
    for (const LayerWeights& w : decoder.layers()) {
      w.input_norm[5].mul_(8);
      w.post_norm[11].mul_(-8);
      if (w.router.defined()) w.router_bias[1].sub_(100);  // an expert that the router never sends anything
    }
    save_decoder(decoder, out, DType::f32);
    out.write_file("tokenizer.json", byte_tokenizer_json());
    fs::create_directories(folder.path() / "corpus");
    OutputFolder corpus(folder.path() / "corpus");
    std::string table;
    for (const auto& [split, tokens] : std::vector<std::pair<std::string, int64_t>>{{"train", 400}, {"held_out", 40}})
      table += Json{{"digest", sha256(split).hex()},
                    {"name", split},
                    {"source", "test"},
                    {"license", "CC0-1.0"},
                    {"license_rule", "*"},
                    {"bytes", tokens},
                    {"split", split},
                    {"first_token", 0},
                    {"tokens", tokens}}
                   .dump() +
               "\n";
    corpus.write_file("documents.jsonl", table);
    SafetensorsWriter writer(corpus, "tokens.safetensors", {{"train", DType::u16, {400}}, {"held_out", DType::u16, {40}}},
                             {{"vocab_size", "257"},
                              {"window_length", std::to_string(kLength)},
                              {"tokenizer_probe", open_tokenizer(folder.path() / "model")->probe().hex()},
                              {"separator", "256"}});
    Rng rng(5, "test/tokens");
    for (int i = 0; i < 440; ++i) {
      const uint16_t id = uint16_t(rng.below(257));
      writer.append(&id, sizeof id);
    }
    writer.close();
  }
  StageReport observe(const ActivationsConfig& options) const { return observe_in(folder.path(), options); }
  StageReport quantize(const QuantizeConfig& options, const std::string& name, const Digest& root = kModelRoot) const {
    fs::remove_all(folder.path() / name);
    fs::create_directories(folder.path() / name);
    Outputs outputs(folder.path() / name, folder.path() / "scratch");
    return run_quantize(
        options, Inputs({{"model", {folder.path() / "model", root}}, {"activations", {folder.path() / "activations", {}}}}),
        outputs);
  }
  at::Tensor ids() const { return sample_windows(Corpus(folder.path() / "corpus"), kCorpusRoot, 0, kTokens).ids; }
  Decoder model(const std::string& name = "model") const { return Decoder(open_checkpoint(folder.path() / name)); }
  std::string bytes(const std::string& name) const {
    std::ifstream in(folder.path() / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  double divergence(const std::string& name) const {
    at::NoGradGuard no_grad;
    const Decoder a = model(), b = model(name);
    ForwardOptions all;  // a router's choice near a tie would hide what rounding the weights changes
    all.top_k = config.n_routed_experts;
    const at::Tensor p = at::log_softmax(a.logits(a.hidden(ids(), all)), -1),
                     q = at::log_softmax(b.logits(b.hidden(ids(), all)), -1);
    return p.exp().mul(p - q).sum(-1).mean().item<double>();
  }
};

at::Tensor tensor_of(const std::vector<float>& values, int64_t rows) { return at::tensor(values, at::kFloat).view({rows, -1}); }

void check_input(const ActivationStatistics& file, const std::string& group, const at::Tensor& x, int64_t samples) {
  INFO(group);
  const LinearStatistics small = file.read(group, ActivationStatistics::Parts::samples),
                         second = file.read(group, ActivationStatistics::Parts::hessian);
  CHECK(at::allclose(tensor_of(small.amax, 1)[0], x.abs().amax(0), 1e-5, 1e-6));
  CHECK(small.least == Approx(x.min().item<float>()).epsilon(1e-5));
  CHECK(small.largest == Approx(x.max().item<float>()).epsilon(1e-5));
  CHECK(small.tokens == x.size(0));
  REQUIRE(small.sample_rows == std::min(samples, x.size(0)));
  const int64_t last = (2 * small.sample_rows - 1) * x.size(0) / (2 * small.sample_rows);
  CHECK(at::allclose(tensor_of(small.samples, small.sample_rows)[small.sample_rows - 1], x[last].to(at::kHalf).to(at::kFloat),
                     2e-3, 1e-5));
  const at::Tensor hessian = x.t().matmul(x) / double(x.size(0));
  CHECK(at::allclose(tensor_of(second.hessian, small.columns), hessian, 1e-4, 1e-5 * hessian.abs().max().item<double>()));
}

/// A checkpoint with a calibration's scaling applied and nothing rounded.
class Scaled : public TensorSource {
 public:
  Scaled(const TensorSource& source, const Calibration& calibration) : source_(source), calibration_(calibration) {}
  const std::vector<TensorInfo>& tensors() const override { return source_.tensors(); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    source_.read_f32(name, first_row, rows, out);
    calibration_.scaling(name).apply(first_row, rows, out);
  }

 private:
  const TensorSource& source_;
  const Calibration& calibration_;
};

/// A process of its own that records, and meets `signal` at its n-th write to the disk. Returns how it ended.
struct SignalledChild {
  static constexpr ActivationsConfig kOptions{.tokens = kTokens, .batch_size = 2, .min_tokens = 20, .hessians = true};
  static inline int signal = 0;
  static inline int64_t left = 0;

  static int run(const fs::path& world, int signal, int64_t n) {
    setenv("OVERPROOF_TEST_WORLD", world.c_str(), 1);
    setenv("OVERPROOF_TEST_SIGNAL", std::to_string(signal).c_str(), 1);
    setenv("OVERPROOF_TEST_WRITES", std::to_string(n).c_str(), 1);
    std::string program = fs::read_symlink("/proc/self/exe").string(), child = "[signalled-child]";
    char* arguments[] = {program.data(), child.data(), nullptr};
    pid_t process = 0;
    REQUIRE(::posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments, environ) == 0);
    int status = 0;
    ::waitpid(process, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  static ssize_t pwrite(int fd, const void* from, size_t bytes, off_t at) {
    if (--left == 0) ::kill(::getpid(), signal);
    return ::pwrite(fd, from, bytes, at);
  }
};

bool said_resumed(const StageReport& report) {
  return std::ranges::any_of(report.summary, [](const std::string& line) { return line.starts_with("resumed after"); });
}

bool in_layers(const std::string& name) { return name.find("proj") != std::string::npos; }

}  // namespace

TEST_CASE("a dense model's inputs are recorded as a whole forward pass sees them") {
  const Fixture f(random_dense_config());
  const StageReport report = f.observe({.tokens = kTokens, .batch_size = 4, .samples = 10, .hessians = true});
  CHECK(report.metrics()["groups"] == 8);
  at::NoGradGuard no_grad;
  const ActivationStatistics file(f.folder.path() / "activations");
  CHECK(file.model_root() == kModelRoot);
  const Decoder model = f.model();
  CHECK(*file.group_of("model.layers.1.self_attn.v_proj.weight") == "model.layers.1.self_attn.q_proj");
  check_input(file, "model.layers.0.self_attn.q_proj",
              ops::rms_norm(model.embed(f.ids()), model.layers()[0].input_norm, model.config().rms_norm_eps), 10);
  ForwardOptions options;
  options.on_ffn_input = [&](int64_t layer, const at::Tensor& x) {
    const std::string at = "model.layers." + std::to_string(layer) + ".mlp.";
    check_input(file, at + "gate_proj", x, 10);
    const at::Tensor z = x.matmul(model.layers()[size_t(layer)].gate_up.t());
    check_input(file, at + "down_proj", at::silu(z.narrow(1, 0, 80)) * z.narrow(1, 80, 80), 10);
  };
  model.hidden(f.ids(), options);
  // o_proj: what the attention block adds is its product with the recorded input's second moment's square root; checked by
  // energy.
  AttentionInputs seen;
  const at::Tensor x = model.embed(f.ids()), after = model.attention_block(0, x, f.ids().size(0), &seen);
  CHECK(at::allclose(after - x, seen.o.matmul(model.layers()[0].o.t()), 1e-4, 1e-4));
  check_input(file, "model.layers.0.self_attn.o_proj", seen.o, 10);
}

TEST_CASE("every expert is observed: forced tokens are the best scored others, and change nothing downstream") {
  const Fixture f(random_moe_config());
  const int64_t wanted = 45;
  const StageReport report = f.observe({.tokens = kTokens, .samples = 8, .min_tokens = wanted, .hessians = true});
  at::NoGradGuard no_grad;
  const ActivationStatistics file(f.folder.path() / "activations");
  const Decoder model = f.model();
  int64_t topped_up = 0, forced_tokens = 0;
  ForwardOptions options;
  options.on_ffn_input = [&](int64_t layer, const at::Tensor& x) {
    const LayerWeights& w = model.layers()[size_t(layer)];
    const std::string at = "model.layers." + std::to_string(layer) + ".mlp.";
    check_input(file, at + "shared_experts.gate_proj", x, 8);
    const at::Tensor scores = x.matmul(w.router.t()).sigmoid();
    const at::Tensor chosen = std::get<1>((scores + w.router_bias).topk(model.config().top_k, 1));
    for (int64_t e = 0; e < 5; ++e) {
      std::set<int64_t> rows;
      for (int64_t t = 0; t < kTokens; ++t)
        if (chosen[t].eq(e).any().item<bool>()) rows.insert(t);
      const int64_t sent = int64_t(rows.size());
      if (e == 1) CHECK(sent == 0);
      const at::Tensor order = scores.select(1, e).argsort(true, 0, true);
      for (int64_t i = 0; int64_t(rows.size()) < wanted; ++i) rows.insert(order[i].item<int64_t>());
      topped_up += int64_t(rows.size()) > sent;
      forced_tokens += int64_t(rows.size()) - sent;
      const std::string expert = at + "experts." + std::to_string(e) + ".";
      const LinearStatistics s = file.read(expert + "gate_proj", ActivationStatistics::Parts::hessian);
      CHECK(s.tokens == int64_t(rows.size()));
      CHECK(s.forced_tokens == int64_t(rows.size()) - sent);
      const at::Tensor seen = x.index_select(0, at::tensor(std::vector<int64_t>(rows.begin(), rows.end())));
      const at::Tensor hessian = seen.t().matmul(seen) / double(rows.size());
      CHECK(at::allclose(tensor_of(s.hessian, 48), hessian, 1e-4, 1e-5 * hessian.abs().max().item<double>()));
      const at::Tensor z = seen.matmul(w.expert_gate_up[e].t()), a = at::silu(z.narrow(1, 0, 16)) * z.narrow(1, 16, 16);
      CHECK(at::allclose(tensor_of(file.read(expert + "down_proj", ActivationStatistics::Parts::small).amax, 1)[0],
                         a.abs().amax(0), 1e-4, 1e-5));
    }
  };
  model.hidden(f.ids(), options);  // layer 1 agrees only if the forced tokens of layer 0 left the residual stream alone
  const Json& experts = report.metrics()["experts"];
  CHECK(experts == Json{{"total", 10}, {"topped_up", topped_up}, {"below_min_tokens", 0}, {"forced_tokens", forced_tokens}});
  CHECK(topped_up >= 2);
  CHECK(f.observe({.tokens = kTokens, .min_tokens = 1000}).metrics()["experts"]["below_min_tokens"] == 10);
}

TEST_CASE("recording again, and in other batches, gives the same file or the same figures") {
  const Fixture f(random_moe_config());
  f.observe({.tokens = kTokens, .hessians = true});
  const std::string first = f.bytes("activations/activations.safetensors");
  f.observe({.tokens = kTokens, .hessians = true});
  CHECK(f.bytes("activations/activations.safetensors") == first);
  const ActivationStatistics file(f.folder.path() / "activations");
  const LinearStatistics before = file.read("model.layers.1.mlp.experts.3.down_proj", ActivationStatistics::Parts::small);
  f.observe({.tokens = kTokens, .batch_size = 1, .hessians = true});
  const LinearStatistics after = ActivationStatistics(f.folder.path() / "activations")
                                     .read("model.layers.1.mlp.experts.3.down_proj", ActivationStatistics::Parts::small);
  CHECK(before.tokens == after.tokens);
  for (size_t i = 0; i < before.amax.size(); ++i) CHECK(before.amax[i] == Approx(after.amax[i]).epsilon(1e-4));
}

TEST_CASE("a killed or interrupted run resumes after its last whole layer, and ends with the same bytes") {
  for (const ModelConfig& c : {random_dense_config(), random_moe_config()}) {
    INFO(c.model_type);
    const Fixture f(c);
    const StageReport whole = f.observe(SignalledChild::kOptions);
    CHECK_FALSE(said_resumed(whole));
    CHECK(fs::is_empty(f.folder.path() / "scratch"));
    const std::string expected = f.bytes("activations/activations.safetensors");
    int resumed = 0;
    for (const int signal : {SIGKILL, SIGINT})
      for (const int64_t n : {1, 2, 3, 4, 5}) {
        CAPTURE(signal, n);
        const int ended = SignalledChild::run(f.folder.path(), signal, n);
        CHECK((ended == (signal == SIGKILL ? -SIGKILL : 130) || (signal == SIGINT && ended == 0)));  // too late to interrupt
        const StageReport report = f.observe(SignalledChild::kOptions);
        CHECK(f.bytes("activations/activations.safetensors") == expected);
        CHECK(report.metrics() == whole.metrics());
        CHECK(fs::is_empty(f.folder.path() / "scratch"));
        resumed += said_resumed(report);
      }
    CHECK(resumed >= 4);
  }
}

TEST_CASE("a run does not resume from files that were changed, or from another run's") {
  const Fixture f(random_moe_config());
  f.observe(SignalledChild::kOptions);
  const std::string expected = f.bytes("activations/activations.safetensors");
  const fs::path spill = f.folder.path() / "scratch" / "activations.spill", state = f.folder.path() / "scratch" / kResumeFile;
  const auto damage = [](const fs::path& file, int64_t from_end) {
    std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(-from_end, std::ios::end) << "\xff\x01";
  };
  for (const std::string what : {"spill", "stream", "state", "short", "other", "nothing"}) {
    CAPTURE(what);
    REQUIRE(SignalledChild::run(f.folder.path(), SIGKILL, 5) == -SIGKILL);
    REQUIRE(fs::exists(state));
    if (what == "spill") std::fstream(spill, std::ios::in | std::ios::out | std::ios::binary).seekp(100) << "\xff\x01";
    if (what == "stream") {
      const std::string text = read_file(state);
      damage(f.folder.path() / "scratch" / Json::parse(text.substr(0, text.find('\n')))["files"][1]["name"].get<std::string>(),
             10);
    }
    if (what == "state") fs::resize_file(state, fs::file_size(state) / 2);
    if (what == "short") fs::resize_file(spill, 1000);
    ActivationsConfig options = SignalledChild::kOptions;
    if (what == "other") options.seed = 1;
    const StageReport report = f.observe(options);
    CHECK(said_resumed(report) == (what == "nothing"));
    CHECK((f.bytes("activations/activations.safetensors") == expected) == (what != "other"));
  }
}

// Not a test of its own: the process that those above end.
TEST_CASE("records the world it is given", "[.][signalled-child]") {
  const char* world = std::getenv("OVERPROOF_TEST_WORLD");
  REQUIRE(world != nullptr);
  SignalledChild::signal = std::atoi(std::getenv("OVERPROOF_TEST_SIGNAL"));
  SignalledChild::left = std::atoi(std::getenv("OVERPROOF_TEST_WRITES"));
  file_calls().pwrite = SignalledChild::pwrite;
  install_interrupt_handler();
  try {
    observe_in(world, SignalledChild::kOptions);
  } catch (const Interrupted&) {
    _exit(130);
  }
}

TEST_CASE("smoothing leaves the function of the unquantised model as it is, bit for bit") {
  at::NoGradGuard no_grad;
  for (const ModelConfig& c : {random_dense_config(), random_moe_config()}) {
    INFO(c.model_type);
    const Fixture f(c);
    f.observe({.tokens = kTokens, .min_tokens = 20});
    const Checkpoint checkpoint = open_checkpoint(f.folder.path() / "model");
    const ActivationStatistics statistics(f.folder.path() / "activations");
    const auto scheme = find_scheme("w8a8", {});
    for (const double strength : {-1.0, 0.5}) {
      const Calibration calibration({.smooth = true, .strength = strength, .min_tokens = 1}, checkpoint, *scheme, statistics,
                                    in_layers);
      CHECK_FALSE(calibration.scaling("model.layers.0.input_layernorm.weight").empty());
      if (strength > 0) CHECK_FALSE(calibration.scaling("model.layers.1.self_attn.o_proj.weight").empty());
      if (c.is_moe()) CHECK_FALSE(calibration.scaling("model.layers.0.mlp.gate.weight").empty());
      CHECK(calibration.scaling("model.norm.weight").empty());
      const Decoder scaled(f.config, Scaled(*checkpoint.tensors, calibration)), plain = f.model();
      CHECK(at::equal(scaled.hidden(f.ids()), plain.hidden(f.ids())));
      CHECK_FALSE(at::equal(scaled.layers()[0].v, plain.layers()[0].v));
    }
  }
}

TEST_CASE("calibrated W8A8 is nearer to its parent, for any number of threads") {
  for (const ModelConfig& c : {random_dense_config(), random_moe_config()}) {
    INFO(c.model_type);
    const Fixture f(c);
    f.observe({.tokens = kTokens, .min_tokens = 48, .hessians = true});
    f.quantize({.scheme = "w8a8"}, "plain");
    QuantizeConfig options{.scheme = "w8a8", .smooth = true, .gptq = true, .min_tokens = 32};
    set_thread_count(1);
    const StageReport report = f.quantize(options, "calibrated");
    set_thread_count(2);
    f.quantize(options, "again");
    set_thread_count(0);
    CHECK(f.bytes("calibrated/model.safetensors") == f.bytes("again/model.safetensors"));
    const double plain = f.divergence("plain"), calibrated = f.divergence("calibrated");
    CAPTURE(plain, calibrated);
    CHECK(calibrated < 0.7 * plain);
    CHECK(calibrated > 0);
    const Json& metrics = report.metrics()["calibration"];
    CHECK(metrics["data_free"] == 0);
    CHECK(metrics["gptq"] == report.metrics()["quantised"]);
    CHECK(metrics["smoothed_sites"] > 0);
  }
}

TEST_CASE("weights that saw too few tokens are quantised without calibration, and named") {
  const Fixture f(random_moe_config());
  f.observe({.tokens = kTokens, .min_tokens = 0, .hessians = true});
  const StageReport report = f.quantize({.scheme = "int8", .gptq = true, .min_tokens = 1}, "int8");
  const Json& metrics = report.metrics()["calibration"];
  const ActivationStatistics statistics(f.folder.path() / "activations");
  int64_t unseen = 0;
  for (const auto& [weight, group] : statistics.groups()) unseen += statistics.tokens(group) == 0;
  CHECK(unseen >= 6);  // expert 1 of both layers at least
  ++unseen;            // the head, whose input is not recorded
  CHECK(metrics["data_free"] == unseen);
  CHECK(metrics["data_free_weights"].size() == size_t(unseen));
  CHECK(std::ranges::find(metrics["data_free_weights"], "model.layers.1.mlp.experts.1.down_proj.weight") !=
        metrics["data_free_weights"].end());
  CHECK(std::ranges::any_of(report.summary,
                            [](const std::string& line) { return line.find("experts.1.gate_proj") != std::string::npos; }));
}

TEST_CASE("what cannot be calibrated is refused with a remedy") {
  const Fixture f(random_dense_config());
  f.observe({.tokens = kTokens});
  CHECK_THROWS_WITH(f.quantize({.scheme = "w8a8", .gptq = true}, "out"), Catch::Contains("--hessians"));
  CHECK_THROWS_WITH(f.quantize({.scheme = "fp8", .gptq = true}, "out"), Catch::Contains("int8 scheme"));
  CHECK_THROWS_WITH(f.quantize({.scheme = "int8", .smooth = true}, "out"), Catch::Contains("rounds activations"));
  CHECK_THROWS_WITH(f.quantize({.scheme = "w8a8", .smooth = true}, "out", sha256("another")), Catch::Contains("another model"));
  Decoder model = f.model();
  CHECK_NOTHROW(model.hidden(f.ids()));
  f.quantize({.scheme = "w8a8"}, "w8a8");
  const Decoder rounding = f.model("w8a8");
  rounding.layers()[0].q.set_requires_grad(true);
  CHECK_THROWS_WITH(rounding.hidden(f.ids()), Catch::Contains("not trained"));
}

TEST_CASE("a damaged activations file is refused by name") {
  const Fixture f(random_dense_config());
  f.observe({.tokens = kTokens, .hessians = true});
  const fs::path file = f.folder.path() / "activations" / "activations.safetensors";
  const std::string whole = f.bytes("activations/activations.safetensors");
  const auto with = [&](const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
    const ActivationStatistics statistics(file);
    for (const auto& [weight, group] : statistics.groups()) statistics.read(group, ActivationStatistics::Parts::hessian);
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = whole;
    REQUIRE(bytes.find(from) != std::string::npos);
    return bytes.replace(bytes.find(from), from.size(), to);
  };
  CHECK_NOTHROW(with(whole));
  CHECK_THROWS_AS(with(whole.substr(0, whole.size() - 1)), FormatError);
  CHECK_THROWS_AS(with(replaced("q_proj.amax", "q_proj.emax")), FormatError);
  CHECK_THROWS_AS(with(replaced("format_version\":\"1", "format_version\":\"2")), FormatError);
  CHECK_THROWS_AS(with(replaced(kModelRoot.hex(), std::string(64, 'x'))), FormatError);
  std::string nan = whole;
  std::ofstream(file, std::ios::binary | std::ios::trunc) << whole;
  const size_t at = size_t(SafetensorsFile(file).offset("model.layers.0.mlp.gate_proj.hessian"));
  CHECK_THROWS_WITH(with(std::string(whole).replace(at, 4, "\xff\xff\xff\x7f", 4)), Catch::Contains("gate_proj.hessian"));
}
