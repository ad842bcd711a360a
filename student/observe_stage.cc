#include "student/observe_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/host_values.h"
#include "model/sample_windows.h"
#include "model/torch_setup.h"
#include "student/ffn.h"
#include "records/ffn_statistics.h"

namespace overproof {
namespace {

/// `stored`: what the FFN of a layer receives in the windows from `first`, as f16; `sums` of what its neurons contribute to the output. A
/// sum over finite values is finite, so two numbers decide.
void require_finite(const at::Tensor& stored, const at::Tensor& sums, int64_t layer, int64_t first, int64_t length) {
  if (std::isfinite(stored.sum(at::kDouble).item<double>()) && std::isfinite(sums.sum().item<double>())) return;
  const at::Tensor bad = stored.isfinite().logical_not().any(-1).nonzero();
  throw DivergenceError(fmt::format(
      "layer {}, window {}: what the FFN {} is not finite, or is beyond what f16 holds; there are no statistics of such a teacher", layer,
      first + (bad.numel() > 0 ? bad[0].item<int64_t>() / length : 0), bad.numel() > 0 ? "receives" : "gives"));
}

}  // namespace

StageReport run_observe(const ObserveConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  require_tokenizer(inputs.path("teacher"), corpus.tokenizer(), "the corpus");
  const Decoder teacher = open_dense_teacher(inputs.path("teacher"));
  const ModelConfig& shape = teacher.config();
  const ComputeChoice compute = use_compute(config.compute, shape.hidden_size, outputs);
  const KeepFreedMemory keep_freed_memory;

  const SampledWindows sampled = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const at::Tensor& ids = sampled.ids;
  const int64_t windows = ids.size(0), length = ids.size(1), tokens = windows * length;

  std::vector<at::Tensor> seen, importance;
  for (int64_t l = 0; l < shape.layers; ++l) {
    seen.push_back(at::empty({tokens, shape.hidden_size}, at::kHalf));
    importance.push_back(at::zeros({shape.intermediate_size}, at::kDouble));
  }
  Progress progress("observe", tokens, "tokens");
  for (int64_t first = 0; first < windows; first += config.batch_size) {
    throw_if_interrupted();
    const int64_t count = std::min(config.batch_size, windows - first);
    ForwardOptions options;
    options.segments = sampled.segments_of(first, count);
    options.on_ffn_input = [&](int64_t layer, const at::Tensor& input) {
      const LayerWeights& weights = teacher.layers()[size_t(layer)];
      const at::Tensor stored = seen[size_t(layer)].narrow(0, first * length, count * length);
      stored.copy_(input);
      const at::Tensor sums =
          neuron_contributions(neuron_activations(weights.gate_up, input), weights.down).sum(0, false, at::kDouble);
      require_finite(stored, sums, layer, first, length);
      importance[size_t(layer)] += sums;
    };
    teacher.hidden(ids.narrow(0, first, count), options);
    progress.update((first + count) * length);
  }

  const at::Tensor narrow_ids = ids.to(at::kInt);
  at::Tensor mean;
  write_ffn_statistics({.teacher_root = inputs.root("teacher"),
                        .corpus_root = inputs.root("corpus"),
                        .tokens = tokens,
                        .window_length = length,
                        .layers = shape.layers,
                        .hidden_size = shape.hidden_size,
                        .intermediate_size = shape.intermediate_size},
                       host_values<int32_t>(narrow_ids),
                       [&](int64_t l) -> FfnObservation {
                         mean = (importance[size_t(l)] / double(tokens)).to(at::kFloat);
                         const auto* input = reinterpret_cast<const uint16_t*>(host_bytes(seen[size_t(l)]).data());
                         return {{input, size_t(seen[size_t(l)].numel())}, host_values<float>(mean)};
                       },
                       outputs.folder());

  StageReport report;
  report.metrics() = {{"tokens", tokens}, {"windows", windows}, {"layers", shape.layers}, {kComputeMetric, compute.name()}};
  report.summary.push_back(fmt::format("observed {} tokens in {} layers", tokens, shape.layers));
  report.summary.push_back(compute.summary());
  return report;
}

}  // namespace overproof
