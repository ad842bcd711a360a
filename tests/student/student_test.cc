#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/tokenizer.h"
#include "records/ffn_statistics.h"
#include "student/carve.h"
#include "student/carve_stage.h"
#include "student/certificate.h"
#include "student/clusters.h"
#include "student/ffn.h"
#include "student/router_fit.h"
#include "student/tiny_teacher_stage.h"
#include "tests/support.h"

namespace overproof {
namespace {

at::Tensor random(std::vector<int64_t> shape, const std::string& stream) {
  at::Tensor t = at::empty(shape);
  Rng rng(7, stream);
  float* values = t.data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i) values[i] = float(rng.normal());
  return t;
}

void make_tiny_teacher(const fs::path& folder) {
  Outputs outputs(folder, folder);
  TinyTeacherConfig config;
  config.layers = 2;
  config.hidden_size = 32;
  config.intermediate_size = 64;
  run_tiny_teacher(config, Inputs({}), outputs);
}

// statistics.safetensors of a teacher over random ids, as `observe` writes it for a corpus.
void make_statistics(const Decoder& teacher, const fs::path& folder, const Digest& root) {
  const ModelConfig& c = teacher.config();
  const int64_t windows = 8, length = 64, tokens = windows * length;
  Rng rng(3, "ids");
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (int64_t i = 0; i < tokens; ++i) ids.data_ptr<int64_t>()[i] = int64_t(rng.below(uint64_t(c.vocab_size)));
  std::vector<at::Tensor> inputs, importance;
  ForwardOptions options;
  options.on_ffn_input = [&](int64_t l, const at::Tensor& input) {
    const LayerWeights& w = teacher.layers()[size_t(l)];
    inputs.push_back(input.to(at::kHalf));
    importance.push_back(neuron_contributions(neuron_activations(w.gate_up, input), w.down).mean(0));
  };
  teacher.hidden(ids, options);
  OutputFolder out(folder);
  const at::Tensor narrow = ids.to(at::kInt);
  write_ffn_statistics({root, Digest{}, tokens, length, c.layers, c.hidden_size, c.intermediate_size},
                       {narrow.const_data_ptr<int32_t>(), size_t(tokens)},
                       [&](int64_t l) -> FfnObservation {
                         const at::Tensor &in = inputs[size_t(l)], &mean = importance[size_t(l)];
                         return {{reinterpret_cast<const uint16_t*>(in.const_data_ptr<at::Half>()), size_t(in.numel())},
                                 {mean.const_data_ptr<float>(), size_t(mean.numel())}};
                       },
                       out);
}

}  // namespace

TEST_CASE("balanced assignment fills every cluster evenly and no swap would gain") {
  const at::Tensor scores = random({60, 5}, "scores");
  const std::vector<int64_t> chosen = balanced_assignment(scores);
  std::vector<int64_t> count(5);
  for (const int64_t c : chosen) ++count[size_t(c)];
  CHECK(count == std::vector<int64_t>(5, 12));
  const auto s = scores.accessor<float, 2>();
  for (int64_t a = 0; a < 60; ++a)
    for (int64_t b = 0; b < 60; ++b)
      CHECK(s[a][chosen[size_t(b)]] + s[b][chosen[size_t(a)]] <= s[a][chosen[size_t(a)]] + s[b][chosen[size_t(b)]] + 1e-5f);
}

TEST_CASE("assignment ends on scores that are not numbers") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor scores = random({12, 3}, "scores");
    scores[1][2] = bad;
    scores[5][0] = -bad;
    CHECK(balanced_assignment(scores).size() == 12);
    CHECK(balanced_assignment(at::full({12, 3}, bad)).size() == 12);
  }
}

TEST_CASE("k-means finds clusters that are there") {
  // Four groups of eight rows around four directions, shuffled by stride.
  at::Tensor profiles = 0.1 * random({32, 16}, "noise");
  for (int64_t r = 0; r < 32; ++r) profiles[r][(r * 5 % 4) * 3] += 1.0;
  profiles.div_(profiles.norm(2, {1}, true));
  const std::vector<int64_t> chosen = balanced_kmeans(profiles, 4, 20, 1, 0);
  for (int64_t r = 4; r < 32; ++r) CHECK(chosen[size_t(r)] == chosen[size_t(r - 4)]);
  CHECK(std::set<int64_t>(chosen.begin(), chosen.end()).size() == 4);
  CHECK(balanced_kmeans(profiles, 4, 20, 1, 0) == chosen);
}

TEST_CASE("k-means takes rows that are all alike") {
  const at::Tensor profiles = at::ones({12, 4}) * 0.5;
  const std::vector<int64_t> chosen = balanced_kmeans(profiles, 3, 5, 0, 0);
  for (int64_t c = 0; c < 3; ++c) CHECK(std::count(chosen.begin(), chosen.end(), c) == 4);
}

TEST_CASE("the fitted router finds the experts that a linear function of the input makes large") {
  const at::Tensor input = random({2000, 16}, "input") + 0.5;
  const at::Tensor truth = random({6, 16}, "truth");
  const at::Tensor norms = (at::matmul(input, truth.t()) * 0.3).exp();
  RouterFitOptions options;
  options.top_k = 2;
  const RouterFit fit = fit_router(input, norms, options);
  const at::Tensor wanted = largest(norms, 2), chosen = choose(fit, input, 2);
  CHECK((wanted * chosen).sum().item<double>() / wanted.sum().item<double>() > 0.9);
  CHECK(at::matmul(input, fit.gate.t()).square().mean().sqrt().item<double>() == Approx(options.scale).epsilon(1e-3));
  CHECK(std::abs(fit.bias.mean().item<double>()) < 1e-6);
}

TEST_CASE("a router with a limit of the load keeps it on the tokens that it was fitted to") {
  const at::Tensor input = random({2000, 16}, "input") + 0.5;
  const at::Tensor norms = (at::matmul(input, random({6, 16}, "truth").t()) * 0.3).exp() * at::tensor({4.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.2f});
  RouterFitOptions options;
  const auto largest_load = [&](double most) {
    options.most_load = most;
    return choose(fit_router(input, norms, options), input, 1).mean(0).max().item<double>() * 6;
  };
  CHECK(largest_load(0) > 2);
  CHECK(largest_load(1.25) <= 1.25 + 1e-9);
}

TEST_CASE("a router without a bias finds them too, and keeps a limit of the load by its gate") {
  const at::Tensor input = random({2000, 16}, "input") + 0.5;  // as behind a norm: the mean is not zero
  const at::Tensor norms = (at::matmul(input, random({6, 16}, "truth").t()) * 0.3).exp();
  RouterFitOptions options;
  options.top_k = 2;
  options.biased = false;
  const RouterFit fit = fit_router(input, norms, options);
  const at::Tensor wanted = largest(norms, 2), chosen = choose(fit, input, 2);
  CHECK((wanted * chosen).sum().item<double>() / wanted.sum().item<double>() > 0.85);
  CHECK(fit.bias.eq(0).all().item<bool>());
  options.top_k = 1;
  const at::Tensor uneven = norms * at::tensor({4.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.2f});
  const auto largest_load = [&](double most) {
    options.most_load = most;
    return choose(fit_router(input, uneven, options), input, 1).mean(0).max().item<double>() * 6;
  };
  CHECK(largest_load(0) > 2);
  CHECK(largest_load(1.25) <= 1.25 + 1e-9);
}

TEST_CASE("carving uses every neuron once, and with all experts active and a zero gate the student equals the teacher") {
  const TempFolder folder;
  make_tiny_teacher(folder.path() / "teacher");
  const Digest root = sha256(std::string_view("the tiny teacher"));
  at::NoGradGuard no_grad;
  const Decoder teacher(open_checkpoint(folder.path() / "teacher"));
  make_statistics(teacher, folder.path() / "statistics", root);

  CarveOptions options{.experts = 7, .shared = 1, .top_k = 2, .clustering_iterations = 10, .ranking_steps = 20, .ridge = 0.01};
  options.clusters = {ClusterBy::contribution, ClusterBy::coactivation};
  options.refits = 1;
  options.recovery_ridge = 0.1;
  options.most_load = 1.5;
  const at::Tensor input = at::tensor(FfnStatistics(folder.path() / "statistics").ffn_input(0)).view({-1, 32});
  const LayerCarving carving = carve_layer(teacher.layers()[0].gate_up, teacher.layers()[0].down, input, options, 0);
  const at::Tensor sorted = std::get<0>(carving.neurons.sort());
  CHECK(at::equal(sorted, at::arange(64, at::kLong)));
  CHECK(carving.quality.oracle_error <= carving.quality.router_error + 1e-9);
  CHECK(carving.quality.recall > 2.0 / 7);  // better than chance
  REQUIRE(carving.attempts.size() == 4);
  const CarveAttempt& taken = carving.attempts.at(carving.best);
  for (const CarveAttempt& attempt : carving.attempts) {
    CHECK(taken.recovered_error <= attempt.recovered_error);
    CHECK(attempt.recovered_oracle_error > 0);
  }
  CHECK(carving.attempts[1].refits == 1);
  CHECK(carving.attempts[2].split == "coactivation");

  CarveConfig config;
  config.experts = 7;
  config.top_k = 2;
  const Inputs inputs({{"teacher", {folder.path() / "teacher", root}}, {"statistics", {folder.path() / "statistics", Digest{}}}});
  Outputs outputs(folder.path() / "student", folder.path());
  const StageReport report = run_carve(config, inputs, outputs);
  CHECK(report.metrics().at("certificate").at("largest_difference").get<double>() <= kEquivalenceBound);
  CHECK(report.metrics().at("ffn_activation").get<double>() == Approx(3.0 / 8));

  Decoder student(open_checkpoint(folder.path() / "student"));
  CHECK(student.config().n_routed_experts == 7);
  const at::Tensor window = at::arange(40, at::kLong).view({1, 40});
  const auto certify = [&](const fs::path& carved) {
    LayerStream dense(open_checkpoint(folder.path() / "teacher")), sparse(open_checkpoint(carved));
    return certify_equivalence(dense, sparse, window, DType::f32);
  };
  const Certificate certificate = certify(folder.path() / "student");
  CHECK(certificate.holds());
  CHECK(certificate.tokens == 40);

  // It is about a zero gate. With the fitted gate the experts have weights 2 sigmoid(z), so the saved student differs from its teacher
  // also with all experts active, and with top_k experts it differs more.
  ForwardOptions all;
  all.top_k = 7;
  const at::Tensor expected = teacher.logits(teacher.hidden(window));
  const auto difference = [&](const ForwardOptions& options) {
    return (student.logits(student.hidden(window, options)) - expected).abs().max().item<double>();
  };
  const double bound = kEquivalenceBound * std::max(1.0, certificate.largest_logit);
  CHECK(difference(all) > 10 * bound);
  CHECK(difference({}) > difference(all));

  // One changed neuron breaks the certificate.
  student.layers()[1].expert_down[3][0][0] += 0.5;
  fs::create_directories(folder.path() / "changed");
  OutputFolder changed(folder.path() / "changed");
  save_decoder(student, changed, DType::f32);
  CHECK_FALSE(certify(folder.path() / "changed").holds());
}

TEST_CASE("a teacher with Llama-3 RoPE is carved as qwen2_moe, and the certificate is of what 16 bits hold") {
  const TempFolder folder;
  make_tiny_teacher(folder.path() / "tiny");
  at::NoGradGuard no_grad;
  const DType dtype = GENERATE(DType::f32, DType::bf16);
  {
    const Checkpoint tiny = open_checkpoint(folder.path() / "tiny");
    ModelConfig shape = ModelConfig::from_json(*tiny.config, "config.json");
    shape.rope.type = "llama3";
    shape.rope.factor = 8;
    shape.rope.original_max_position = 16;
    OutputFolder out(folder.path() / "teacher");
    save_decoder(Decoder(shape, *tiny.tensors), out, dtype);
    fs::copy_file(folder.path() / "tiny" / "tokenizer.json", folder.path() / "teacher" / "tokenizer.json");
  }
  const Decoder teacher(open_checkpoint(folder.path() / "teacher"));
  const Digest root = sha256(std::string_view("the teacher"));
  make_statistics(teacher, folder.path() / "statistics", root);
  CarveConfig config;
  config.experts = 6;
  config.shared = 2;
  config.top_k = 3;  // no power of 2, so that a folded weight is rounded otherwise than the weight
  config.certificate_tokens = 64;
  const Inputs inputs({{"teacher", {folder.path() / "teacher", root}}, {"statistics", {folder.path() / "statistics", Digest{}}}});
  Outputs outputs(folder.path() / "student", folder.path());
  const StageReport report = run_carve(config, inputs, outputs);
  CHECK(report.metrics().at("certificate").at("holds") == true);
  CHECK(report.metrics().at("profile") == "qwen2_moe");
  CHECK(report.metrics().at("ffn_activation").get<double>() == Approx(5.0 / 8));

  const Decoder student(open_checkpoint(folder.path() / "student"));
  CHECK(student.config().rope.type == "llama3");
  CHECK_FALSE(student.layers()[0].router_bias.defined());
  CHECK(student.layers()[0].shared_gate.eq(0).all().item<bool>());
  if (dtype != DType::f32) return;
  // By hand: all experts with the weight 1 are the teacher.
  const at::Tensor window = at::arange(40, at::kLong).view({1, 40}), expected = teacher.logits(teacher.hidden(window));
  for (const LayerWeights& layer : student.layers()) {
    layer.router.zero_();
    layer.expert_down.mul_(6.0 / 3.0);
  }
  ForwardOptions all;
  all.top_k = 6;
  const double bound = kEquivalenceBound * std::max(1.0, expected.abs().max().item<double>());
  CHECK((student.logits(student.hidden(window, all)) - expected).abs().max().item<double>() <= bound);
}

TEST_CASE("a carved student has its teacher's type, and one table only where that is asked for and possible") {
  const TempFolder folder;
  make_tiny_teacher(folder.path() / "tiny");  // f32, with a head of its own
  at::NoGradGuard no_grad;
  const Decoder tiny(open_checkpoint(folder.path() / "tiny"));
  const Digest root = sha256(std::string_view("the tiny teacher"));
  make_statistics(tiny, folder.path() / "statistics", root);
  CarveConfig config;
  config.experts = 7;
  config.top_k = 2;
  config.certificate_tokens = 64;
  const auto carve = [&](const std::string& teacher, const std::string& out) {
    const Inputs inputs({{"teacher", {folder.path() / teacher, root}}, {"statistics", {folder.path() / "statistics", Digest{}}}});
    Outputs outputs(folder.path() / out, folder.path());
    return run_carve(config, inputs, outputs);
  };
  CHECK(carve("tiny", "f32").metrics().at("dtype") == "F32");
  config.tie = Tie::yes;
  CHECK_THROWS_AS(carve("tiny", "refused"), MismatchError);

  // The same in bf16 and tied.
  ModelConfig shape = tiny.config();
  shape.tie_embeddings = true;
  {
    OutputFolder out(folder.path() / "tied");
    save_decoder(Decoder(shape, *open_checkpoint(folder.path() / "tiny").tensors), out, DType::bf16);
    fs::copy_file(folder.path() / "tiny" / "tokenizer.json", folder.path() / "tied" / "tokenizer.json");
  }
  const int64_t table = shape.vocab_size * shape.hidden_size * 2;
  const StageReport one = carve("tied", "one-table");
  CHECK(one.metrics().at("dtype") == "BF16");
  CHECK(one.metrics().at("tied") == true);
  CHECK(one.metrics().at("certificate").at("holds") == true);
  config.tie = Tie::automatic;
  const StageReport two = carve("tied", "two-tables");
  CHECK(two.metrics().at("tied") == false);
  CHECK(two.metrics().at("tie_would_save") == table);
  CHECK(std::ranges::any_of(two.summary, [](const std::string& line) { return line.find("tie = yes would save") != std::string::npos; }));
  const Checkpoint student = open_checkpoint(folder.path() / "two-tables"),
                   smaller = open_checkpoint(folder.path() / "one-table");
  for (const TensorInfo& info : student.tensors->tensors()) {
    INFO(info.name);
    CHECK(info.dtype == (info.name.find("mlp.gate.") != std::string::npos ? DType::f32 : DType::bf16));
    if (info.name != "lm_head.weight")
      CHECK(student.tensors->read_all_f32(info.name) == smaller.tensors->read_all_f32(info.name));
  }
  CHECK_FALSE(smaller.tensors->find("lm_head.weight"));
  CHECK(student.tensors->read_all_f32("lm_head.weight") == student.tensors->read_all_f32("model.embed_tokens.weight"));
  const at::Tensor window = at::arange(40, at::kLong).view({1, 40});
  const Decoder a(student), b(smaller);
  CHECK(at::equal(a.logits(a.hidden(window)), b.logits(b.hidden(window))));
  // f32 for a bf16 teacher: the certificate is of what is written either way.
  config.dtype = WeightDType::f32;
  CHECK(carve("tied", "wide").metrics().at("dtype") == "F32");
}

TEST_CASE("of several numbers of shared experts the one with the least error after recovery is carved") {
  const TempFolder folder;
  make_tiny_teacher(folder.path() / "teacher");
  at::NoGradGuard no_grad;
  const Digest root = sha256(std::string_view("the tiny teacher"));
  make_statistics(Decoder(open_checkpoint(folder.path() / "teacher")), folder.path() / "statistics", root);
  CarveConfig config;
  config.experts = 7;
  config.top_k = 3;
  const auto carve = [&](const std::string& out) {
    const Inputs inputs({{"teacher", {folder.path() / "teacher", root}}, {"statistics", {folder.path() / "statistics", Digest{}}}});
    Outputs outputs(folder.path() / out, folder.path());
    return run_carve(config, inputs, outputs);
  };
  CHECK_FALSE(carve("one").metrics().contains("shared_tried"));
  config.try_shared = {"2", "0", "1"};
  const StageReport report = carve("several");
  const Json& tried = report.metrics().at("shared_tried");
  REQUIRE(tried.size() == 3);  // 1 is the first already
  const Json* least = &tried[0];
  for (const Json& attempt : tried) {
    CHECK(attempt.at("shared").get<int64_t>() + attempt.at("experts").get<int64_t>() == 8);
    CHECK(attempt.at("shared").get<int64_t>() + attempt.at("top_k").get<int64_t>() == 4);
    if (attempt.at("recovered_error") < least->at("recovered_error")) least = &attempt;
  }
  const ModelConfig shape = Decoder(open_checkpoint(folder.path() / "several")).config();
  CHECK(shape.n_shared_experts == least->at("shared").get<int64_t>());
  CHECK(shape.n_routed_experts == least->at("experts").get<int64_t>());
  CHECK(shape.top_k == least->at("top_k").get<int64_t>());
  CHECK(report.metrics().at("ffn_activation").get<double>() == Approx(0.5));

  // The same errors as that number alone, on the layers that were tried.
  for (const Json& attempt : tried) {
    config.try_shared.clear();
    config.shared = attempt.at("shared").get<int64_t>();
    config.experts = attempt.at("experts").get<int64_t>();
    config.top_k = attempt.at("top_k").get<int64_t>();
    carve(fmt::format("alone-{}", config.shared));
    const fs::path file = folder.path() / fmt::format("alone-{}", config.shared) / "carving.json";
    const Json layer = parse_json(read_file(file), file).at("layers").at(0);
    CHECK(layer.at("tried").at(layer.at("taken").get<size_t>()).at("recovered_error") == attempt.at("recovered_error"));
  }
  config.shared = 1, config.experts = 7, config.top_k = 3;
  for (const char* wrong : {"4", "-1", "two", "1.5", "99999999999999999999"}) {
    config.try_shared = {wrong};
    CHECK_THROWS_AS(carve("refused"), UsageError);
  }
}

TEST_CASE("statistics of another teacher are refused") {
  const TempFolder folder;
  make_tiny_teacher(folder.path() / "teacher");
  at::NoGradGuard no_grad;
  const Decoder teacher(open_checkpoint(folder.path() / "teacher"));
  make_statistics(teacher, folder.path() / "statistics", sha256(std::string_view("another")));
  const Inputs inputs(
      {{"teacher", {folder.path() / "teacher", Digest{}}}, {"statistics", {folder.path() / "statistics", Digest{}}}});
  Outputs outputs(folder.path() / "student", folder.path());
  CHECK_THROWS_AS(run_carve({}, inputs, outputs), MismatchError);
}

TEST_CASE("shapes that cannot be carved are refused") {
  ModelConfig teacher;
  teacher.model_type = "llama";
  teacher.intermediate_size = 100;
  CHECK_THROWS_AS(carved_config(teacher, {15, 1, 3}), UsageError);
  teacher.intermediate_size = 128;
  CHECK_THROWS_AS(carved_config(teacher, {7, 1, 8}), UsageError);
  CHECK(carved_config(teacher, {7, 1, 2}).moe_intermediate_size == 16);
  const auto refused = [](ModelConfig shape, const auto& change, const std::string& word) {
    change(shape);
    CHECK_THROWS_WITH(carved_config(shape, {7, 1, 2}), Catch::Contains("cannot be carved") && Catch::Contains(word));
  };
  refused(teacher, [](ModelConfig& c) { c.model_type = "gemma2"; }, "gemma2");
  refused(teacher, [](ModelConfig& c) { c.rope.type = "llama3", c.qk_norm = true; }, "Llama-3 RoPE");
  refused(teacher, [](ModelConfig& c) { c.rope.type = "yarn"; }, "'yarn'");
  refused(teacher, [](ModelConfig& c) { c.mlp_bias = true; }, "mlp_bias");
  refused(teacher, [](ModelConfig& c) { c.output_bias = true; }, "bias");
  refused(teacher, [](ModelConfig& c) { c.shapes.assign(2, LayerShape{.windowed = true}); }, "sliding windows");
}

TEST_CASE("the byte tokenizer gives every byte back") {
  const TempFolder folder;
  write_file_atomically(folder.path() / "tokenizer.json", byte_tokenizer_json());
  const auto tokenizer = open_tokenizer(folder.path() / "tokenizer.json");
  std::vector<int32_t> ids;
  tokenizer->encode("a line\n\xe4\xb8\xad\xe6\x96\x87", ids);
  CHECK(ids == std::vector<int32_t>{'a', ' ', 'l', 'i', 'n', 'e', '\n', 0xe4, 0xb8, 0xad, 0xe6, 0x96, 0x87});
  CHECK(tokenizer->decode(ids) == "a line\n\xe4\xb8\xad\xe6\x96\x87");
  CHECK(tokenizer->vocab_size() == 257);
}

}  // namespace overproof
