#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "model/host_values.h"
#include "model/layer_stream.h"
#include "records/activation_statistics.h"
#include "records/expert_statistics.h"
#include "records/ffn_statistics.h"
#include "student/ffn.h"
#include "student/neuron_gradients.h"
#include "student/observe_stage.h"
#include "tests/teacher/tiny_world.h"

namespace overproof {
namespace {

struct ObserveWorld : TinyWorld {
  void observe(const ObserveConfig& config, const std::string& teacher, const std::string& name) const {
    Outputs outputs = fresh(name);
    run_observe(config, Inputs({{"teacher", {path / teacher, sha256(teacher)}}, {"corpus", {path / "corpus", sha256("corpus")}}}), outputs);
  }
  /// A mixture of experts with the corpus's tokenizer.
  Decoder mixture() const {
    ModelConfig c = tiny_config();
    c.model_type = "glm4_moe";
    c.tie_embeddings = false;
    c.n_routed_experts = 4;
    c.n_shared_experts = 1;
    c.moe_intermediate_size = 8;
    c.top_k = 2;
    c.routed_scaling_factor = 2.0;
    Decoder model(c, RandomSource(c));
    fs::create_directories(path / "mixture");
    OutputFolder out(path / "mixture");
    save_decoder(model, out, DType::f32);
    out.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
    return model;
  }
  at::Tensor observed_ids(const std::string& name) const {
    const FfnStatistics s(path / name);
    return at::tensor(s.ids(1 << 20, tiny_config().vocab_size)).view({-1, s.shape().window_length});
  }
};

at::Tensor tensor_of(const std::vector<float>& values) { return at::tensor(values); }

}  // namespace

TEST_CASE("a streamed model computes what the whole one computes, with one layer in memory") {
  const ObserveWorld w;
  at::NoGradGuard no_grad;
  const Decoder whole(open_checkpoint(w.path / "teacher"));
  LayerStream stream(open_checkpoint(w.path / "teacher"));
  const at::Tensor ids = at::arange(32, at::kLong).view({2, 16});
  at::Tensor x = stream.embed(ids);
  for (int64_t l = 0; l < stream.config().layers; ++l) {
    const Decoder& model = stream.at(l);
    x = model.ffn_residual(l, model.attention_block(l, x, 2));
    for (int64_t other = 0; other < stream.config().layers; ++other) CHECK(model.layers()[size_t(other)].down.defined() == (other == l));
  }
  CHECK(at::equal(stream.ends().last_norm(x), whole.hidden(ids)));
  CHECK(at::equal(stream.head(), whole.head()));
  fs::create_directories(w.path / "copy");
  fs::create_directories(w.path / "whole");
  OutputFolder copy(w.path / "copy"), saved(w.path / "whole");
  save_tensors(stream.config(), *stream.checkpoint().tensors, stream.checkpoint().path, [](const std::string&) { return std::span<const float>(); }, copy,
               DType::bf16);
  save_decoder(whole, saved, DType::bf16);
  for (const char* file : {"model.safetensors", "config.json", "generation_config.json"}) CHECK(read_file(w.path / "copy" / file) == read_file(w.path / "whole" / file));
}

TEST_CASE("observe records moments of the neurons and inputs of Linears that a pass of the whole model confirms") {
  const ObserveWorld w;
  w.observe({.tokens = 128, .batch_size = 2, .hessians = true}, "teacher", "statistics");
  at::NoGradGuard no_grad;
  const Decoder teacher(open_checkpoint(w.path / "teacher"));
  const FfnStatistics statistics(w.path / "statistics");
  const ActivationStatistics linears(w.path / "statistics");
  CHECK(linears.model_root() == sha256("teacher"));
  REQUIRE(statistics.shape().moments);
  CHECK_FALSE(statistics.shape().taylor);
  const at::Tensor ids = w.observed_ids("statistics");
  ForwardOptions options;
  options.on_ffn_input = [&](int64_t l, const at::Tensor& input) {
    const LayerWeights& weights = teacher.layers()[size_t(l)];
    const at::Tensor h = neuron_activations(weights.gate_up, input);
    CHECK(at::allclose(tensor_of(statistics.mean(l)), h.mean(0), 1e-4, 1e-5));
    CHECK(at::allclose(tensor_of(statistics.variance(l)), h.var(0), 1e-3, 1e-5));
    CHECK(at::allclose(tensor_of(statistics.importance(l)), neuron_contributions(h.clone(), weights.down).mean(0), 1e-4, 1e-5));
    CHECK(at::allclose(tensor_of(statistics.ffn_input(l)).view_as(input), input, 1e-2, 1e-2));
    const std::string down = "model.layers." + std::to_string(l) + ".mlp.down_proj";
    const LinearStatistics seen = linears.read(down, ActivationStatistics::Parts::hessian);
    CHECK(at::allclose(tensor_of(seen.square), h.square().mean(0), 1e-4, 1e-6));
    CHECK(at::allclose(tensor_of(seen.hessian).view({h.size(1), h.size(1)}), at::matmul(h.t(), h) / h.size(0), 1e-3, 1e-5));
  };
  teacher.hidden(ids, options);
}

TEST_CASE("gradients layer by layer are those of the whole model") {
  const ObserveWorld w;
  w.observe({.tokens = 96, .batch_size = 2, .gradients = true}, "teacher", "statistics");
  const FfnStatistics statistics(w.path / "statistics");
  REQUIRE(statistics.shape().taylor);
  CHECK_FALSE(fs::exists(w.path / "statistics.scratch/streams.f32"));
  const Decoder teacher(open_checkpoint(w.path / "teacher"));
  const at::Tensor ids = w.observed_ids("statistics");
  for (const LayerWeights& layer : teacher.layers()) {
    layer.gate_up.requires_grad_(true);
    layer.down.requires_grad_(true);
  }
  at::AutoGradMode with_gradient(true);
  const int64_t length = ids.size(1);
  const at::Tensor logits = teacher.logits(teacher.hidden(ids)).view({ids.size(0), length, -1}).narrow(1, 0, length - 1);
  at::cross_entropy_loss(logits.reshape({-1, logits.size(2)}), ids.narrow(1, 1, length - 1).reshape({-1})).backward();
  for (int64_t l = 0; l < teacher.config().layers; ++l) {
    const LayerWeights& layer = teacher.layers()[size_t(l)];
    const int64_t ff = layer.down.size(1);
    const at::Tensor rows = (layer.gate_up * layer.gate_up.grad()).abs().sum(1).detach();
    const at::Tensor expected = rows.narrow(0, 0, ff) + rows.narrow(0, ff, ff) + (layer.down * layer.down.grad()).abs().sum(0).detach();
    CHECK(at::allclose(tensor_of(statistics.taylor(l)), expected, 1e-3, 1e-7));
    CHECK(expected.max().item<float>() > 0);
  }
}

TEST_CASE("observe of a mixture records what its experts do, and no gradients") {
  const ObserveWorld w;
  const Decoder model = w.mixture();
  w.observe({.tokens = 128, .batch_size = 2}, "mixture", "statistics");
  const ExpertStatistics statistics(w.path / "statistics");
  CHECK_NOTHROW(statistics.require_model(sha256("mixture"), std::vector<char>(size_t(model.config().layers), 1), 4));
  CHECK_FALSE(fs::exists(w.path / "statistics" / kFfnStatisticsFile));
  at::NoGradGuard no_grad;
  // The windows are those that observe draws of any model.
  w.observe({.tokens = 128}, "teacher", "dense");
  ForwardOptions options;
  options.on_ffn_input = [&](int64_t l, const at::Tensor& input) {
    const ExpertObservation seen = statistics.read(l);
    const ops::Routing routing = model.route(l, input);
    const at::Tensor share = routing.weights / routing.weights.sum(1, true);
    for (int64_t e = 0; e < 4; ++e) {
      const at::Tensor out = model.ffn_pass(l, e, input).out;
      CHECK(at::allclose(tensor_of(seen.mean_output).view({4, -1})[e], out.mean(0), 1e-3, 1e-5));
      const at::Tensor chosen = routing.selected.eq(e);
      const auto count = chosen.sum().item<int64_t>();
      CHECK(seen.tokens[size_t(e)] == count);
      if (count == 0) continue;
      const at::Tensor weighted = (share * chosen).sum(1) * out.norm(2, {1});
      CHECK(seen.reap[size_t(e)] == Approx(weighted.sum().item<float>() / float(count)).epsilon(1e-3));
      const at::Tensor sent = out.index_select(0, chosen.any(1).nonzero().flatten());
      CHECK(seen.largest[size_t(e)] == Approx(sent.abs().max().item<float>()).epsilon(1e-4));
    }
  };
  model.hidden(w.observed_ids("dense"), options);
  CHECK_THROWS_AS(w.observe({.tokens = 32, .gradients = true}, "mixture", "refused"), UsageError);
}

}  // namespace overproof
