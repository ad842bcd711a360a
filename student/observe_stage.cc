#include "student/observe_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "model/host_values.h"
#include "model/torch_setup.h"
#include "records/expert_statistics.h"
#include "records/ffn_statistics.h"
#include "student/layer_pass.h"
#include "student/neuron_gradients.h"

namespace overproof {
namespace {

/// `stored`: what the FFN of a layer receives in the rows from `first`, as f16; `sums` of what its neurons contribute to the output. A
/// sum over finite values is finite, so two numbers decide.
void require_finite(const at::Tensor& stored, const at::Tensor& sums, int64_t layer, int64_t first, int64_t length) {
  if (std::isfinite(stored.sum(at::kDouble).item<double>()) && std::isfinite(sums.sum().item<double>())) return;
  const at::Tensor bad = stored.isfinite().logical_not().any(-1).nonzero();
  throw DivergenceError(fmt::format(
      "layer {}, window {}: what the FFN {} is not finite, or is beyond what f16 holds; there are no statistics of such a teacher", layer,
      (first + (bad.numel() > 0 ? bad[0].item<int64_t>() : 0)) / length, bad.numel() > 0 ? "receives" : "gives"));
}

/// What is observed of one dense layer.
struct NeuronSums {
  at::Tensor seen;                              // f16 [tokens, hidden]
  at::Tensor contribution, activation, square;  // f64 [ff]
  at::Tensor norms;                             // f32 [ff], of the columns of down

  void begin(int64_t tokens, int64_t hidden, const at::Tensor& down) {
    if (!seen.defined()) seen = at::empty({tokens, hidden}, at::kHalf);
    for (at::Tensor* sum : {&contribution, &activation, &square}) *sum = at::zeros({down.size(1)}, at::kDouble);
    norms = down.norm(2, {0});
  }
  void add(int64_t layer, int64_t first, int64_t length, const at::Tensor& input, const at::Tensor& h) {
    const at::Tensor stored = seen.narrow(0, first, input.size(0));
    stored.copy_(input);
    const at::Tensor sums = h.abs().mul_(norms).sum(0, false, at::kDouble);
    require_finite(stored, sums, layer, first, length);
    contribution += sums;
    activation += h.sum(0, false, at::kDouble);
    square += h.square().sum(0, false, at::kDouble);
  }
};

std::vector<float> floats_of(const at::Tensor& t) {
  const at::Tensor f32 = t.to(at::kFloat).contiguous();
  const std::span<const float> values = host_values<float>(f32);
  return {values.begin(), values.end()};
}

/// Runs every expert over all tokens.
ExpertObservation observe_experts(const Decoder& model, int64_t layer, const at::Tensor& input, const at::Tensor& selected,
                                  const at::Tensor& weights, int64_t rows) {
  const ModelConfig& c = model.config();
  const int64_t tokens = input.size(0), experts = c.n_routed_experts;
  // The weight of each expert among the chosen ones of a token, which sum to 1; 0 where it was not chosen.
  const at::Tensor share = at::zeros({tokens, experts}).scatter_(1, selected.to(at::kLong), weights / weights.sum(1, true).clamp_min(1e-20));
  const at::Tensor chosen = at::zeros({tokens, experts}).scatter_(1, selected.to(at::kLong), 1.0);
  ExpertObservation seen;
  for (int64_t e = 0; e < experts; ++e) {
    at::Tensor sum = at::zeros({c.hidden_size}, at::kDouble);
    double weighted = 0, largest = 0;
    for (int64_t first = 0; first < tokens; first += rows) {
      throw_if_interrupted();
      const int64_t n = std::min(rows, tokens - first);
      const at::Tensor out = model.ffn_pass(layer, e, input.narrow(0, first, n)).out;
      sum += out.sum(0, false, at::kDouble);
      weighted += (out.norm(2, {1}) * share.narrow(0, first, n).select(1, e)).sum(at::kDouble).item<double>();
      largest = std::max(largest, (out.abs().amax(1) * chosen.narrow(0, first, n).select(1, e)).max().item<double>());
    }
    const auto sent = int64_t(chosen.select(1, e).sum(at::kDouble).item<double>());
    const std::vector<float> mean = floats_of(sum / double(tokens));
    seen.mean_output.insert(seen.mean_output.end(), mean.begin(), mean.end());
    seen.tokens.push_back(int32_t(sent));
    seen.reap.push_back(sent > 0 ? float(weighted / double(sent)) : 0.0f);
    seen.largest.push_back(float(largest));
    if (!std::isfinite(sum.sum().item<double>() + weighted + largest))
      throw DivergenceError(fmt::format("layer {}, expert {}: its outputs are not finite; there are no statistics of such a model", layer, e));
  }
  return seen;
}

/// The residual stream before each layer and after the last one, in the scratch folder.
class StreamFile {
 public:
  StreamFile(const fs::path& scratch, int64_t tokens, int64_t hidden) : scratch_(scratch), shape_{tokens, hidden} {
    folder_.emplace(scratch);
    file_.emplace(folder_->open(kName));
  }
  void append(const at::Tensor& stream) {
    const std::span<const float> values = host_values<float>(stream);
    file_->write(values.data(), values.size_bytes());
  }
  void finish() {
    folder_->finish(std::move(*file_));
    file_.reset();
    mapped_.emplace(scratch_ / kName);
  }
  at::Tensor read(int64_t layer) const {
    const at::Tensor stream = at::empty({shape_[0], shape_[1]});
    const std::span<uint8_t> to = mutable_host_bytes(stream);
    const std::span<const uint8_t> from = mapped_->bytes().subspan(size_t(layer) * to.size(), to.size());
    std::memcpy(to.data(), from.data(), to.size());
    done_reading(from.data(), from.size());
    return stream;
  }
  void remove() {
    mapped_.reset();
    fs::remove(scratch_ / kName);
  }

 private:
  static constexpr const char* kName = "streams.f32";
  fs::path scratch_;
  std::array<int64_t, 2> shape_;
  std::optional<OutputFolder> folder_;
  std::optional<OutputFile> file_;
  std::optional<MappedFile> mapped_;
};

}  // namespace

StageReport run_observe(const ObserveConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  LayerStream model = open_stream_for(corpus, inputs, "teacher");
  const ModelConfig shape = model.config();
  if (config.gradients && (shape.is_moe() || model.rounds()))
    throw UsageError(fmt::format("{}: {}; gradients are recorded of dense FFNs without rounding", inputs.path("teacher").filename().string(),
                                 shape.is_moe() ? "is a mixture of experts" : "rounds its activations"));
  const std::string name = inputs.path("teacher").filename().string();
  if (const std::string cause = shape.why_not_trained(); config.gradients && !cause.empty())
    throw UsageError(fmt::format("{}: gradients are not recorded: {}", name, cause));
  std::vector<int64_t> dense_layers;  // of a mixture
  for (int64_t l = 0; shape.is_moe() && l < shape.layers; ++l)
    if (!shape.shape_of(l).experts) dense_layers.push_back(l);
  const ComputeChoice compute = use_compute(config.compute, shape.hidden_size, outputs);
  const KeepFreedMemory keep_freed_memory;
  const SampledWindows sampled = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const int64_t windows = sampled.ids.size(0), length = sampled.ids.size(1), tokens = windows * length, hidden = shape.hidden_size;
  const bool linears = config.linears || config.hessians;

  std::optional<ActivationJournal> journal;
  if (linears) journal.emplace(outputs.scratch(), Digest{}, ActivationJournal::Shape{shape.layers, tokens, hidden});
  std::optional<StreamFile> streams;
  if (config.gradients) streams.emplace(outputs.scratch(), tokens, hidden);
  Progress progress("observe", tokens * shape.layers, "tokens");
  NeuronSums neurons;
  ExpertObservation experts;
  LayerObservers observers;
  if (!shape.is_moe()) observers.dense = [&](int64_t layer, int64_t first, const at::Tensor& input, const at::Tensor& h) { neurons.add(layer, first, length, input, h); };
  observers.mixture = [&](int64_t layer, const at::Tensor& input, const at::Tensor& selected, const at::Tensor& weights) {
    experts = observe_experts(model.at(layer), layer, input, selected, weights, config.batch_size * length);
  };
  LayerPass pass(model, {config.batch_size, config.min_tokens, {config.samples, config.hessians}}, sampled, model.embed(sampled.ids), progress,
                 journal ? &*journal : nullptr, observers);

  const Digest &model_root = inputs.root("teacher"), &corpus_root = inputs.root("corpus");
  double first_order = 0;
  if (shape.is_moe()) {
    write_expert_statistics({model_root, corpus_root, tokens, shape.layers, shape.n_routed_experts, hidden, shape.top_k, dense_layers},
                            [&](int64_t) {
                              experts = {};
                              pass.step();
                              return experts;
                            },
                            outputs.folder());
  } else {
    const at::Tensor ids = sampled.ids.to(at::kInt);
    std::vector<float> importance, mean, variance;
    std::vector<std::vector<float>> taylor;
    const auto observation = [&](int64_t l) -> FfnObservation {
      if (streams) streams->append(pass.stream());
      neurons.begin(tokens, hidden, model.at(l).layers()[size_t(l)].down);
      pass.step();
      const double n = double(tokens);
      importance = floats_of(neurons.contribution / n);
      mean = floats_of(neurons.activation / n);
      variance = floats_of(((neurons.square - neurons.activation.square() / n) / std::max(1.0, n - 1)).clamp_min_(0));
      const auto* input = reinterpret_cast<const uint16_t*>(host_bytes(neurons.seen).data());
      return {{input, size_t(neurons.seen.numel())}, importance, mean, variance};
    };
    const auto gradients = [&](int64_t l) {
      if (taylor.empty()) {
        streams->append(pass.stream());
        streams->finish();
        Progress backwards("observe: gradients", tokens * shape.layers, "tokens");
        taylor = neuron_gradients(model, sampled, config.batch_size, [&](int64_t at) { return streams->read(at); }, backwards);
        streams->remove();
      }
      for (const float x : taylor[size_t(l)]) first_order += x;
      if (!std::isfinite(first_order)) throw DivergenceError(fmt::format("layer {}: the gradients of the FFN are not finite", l));
      return taylor[size_t(l)];
    };
    write_ffn_statistics({.teacher_root = model_root,
                          .corpus_root = corpus_root,
                          .tokens = tokens,
                          .window_length = length,
                          .layers = shape.layers,
                          .hidden_size = hidden,
                          .intermediate_size = shape.intermediate_size,
                          .moments = true,
                          .taylor = config.gradients},
                         host_values<int32_t>(ids), observation, outputs.folder(), gradients);
  }
  model.clear();
  StageReport report;
  report.metrics() = {{"tokens", tokens}, {"windows", windows}, {"layers", shape.layers}, {kComputeMetric, compute.name()}};
  report.summary.push_back(fmt::format("observed {} tokens in {} layers{}", tokens, shape.layers,
                                       shape.is_moe() ? fmt::format(", {} of them with {} experts", shape.layers - int64_t(dense_layers.size()), shape.n_routed_experts) : ""));
  if (config.gradients) report.summary.push_back("first-order importance of the neurons recorded, by a pass backwards");
  if (journal) {
    report.metrics()["inputs_recorded"] = journal->groups();
    report.summary.push_back(fmt::format("{} inputs of Linears recorded{}", journal->groups(), config.hessians ? " with Hessians" : ""));
    journal->finish(outputs.folder(), {{"model_root", model_root.hex()}, {"corpus_root", corpus_root.hex()}, {"tokens", std::to_string(tokens)}});
  }
  report.summary.push_back(compute.summary());
  return report;
}

}  // namespace overproof
