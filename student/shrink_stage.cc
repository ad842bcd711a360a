#include "student/shrink_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "data/tokenizer_files.h"
#include "model/host_values.h"
#include "model/sample_windows.h"
#include "student/ffn.h"
#include "student/shrink.h"

namespace overproof {
namespace {

/// What of the importance of each layer's parts is kept, as a mean over layers.
double kept_share(const std::vector<at::Tensor>& importance, const std::vector<at::Tensor>& kept, const std::vector<int64_t>& layers) {
  double sum = 0;
  for (const int64_t l : layers) {
    const at::Tensor& all = importance[size_t(l)];
    const double whole = all.sum().item<double>();
    sum += whole > 0 ? all.index_select(0, kept[size_t(l)]).sum().item<double>() / whole : 1.0;
  }
  return sum / double(layers.size());
}

Json numbers_of(const at::Tensor& tensor) {
  Json list = Json::array();
  for (const int64_t n : host_values<int64_t>(tensor)) list.push_back(n);
  return list;
}

}  // namespace

StageReport run_shrink(const ShrinkConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  const fs::path& path = inputs.path("teacher");
  require_tokenizer(path, corpus.tokenizer(), "the corpus");
  const Checkpoint checkpoint = open_checkpoint(path);
  const Decoder parent = open_dense_teacher(path);
  const ModelConfig& dense = parent.config();
  if (const std::string cause = dense.why_not_trained(); !cause.empty()) throw MismatchError("the teacher cannot be shrunk: " + cause);
  if (dense.mlp_bias) throw MismatchError("the teacher's FFNs have biases (mlp_bias), which shrink does not cut");
  const auto or_all = [](int64_t asked, int64_t all) { return asked > 0 ? asked : all; };
  const PartCounts counts{or_all(config.layers, dense.layers), or_all(config.intermediate_size, dense.intermediate_size),
                          or_all(config.kv_heads, dense.kv_heads), or_all(config.hidden_size, dense.hidden_size)};
  for (const auto& [asked, all, what] : {std::tuple{counts.layers, dense.layers, "layers"},
                                         std::tuple{counts.neurons, dense.intermediate_size, "FFN neurons"},
                                         std::tuple{counts.kv_heads, dense.kv_heads, "key and value heads"},
                                         std::tuple{counts.dimensions, dense.hidden_size, "dimensions"}})
    if (asked > all) throw UsageError(fmt::format("{} {} cannot be kept: there are {}", asked, what, all));
  const ComputeChoice compute = use_compute(config.compute, dense.hidden_size, outputs);

  const SampledWindows sampled = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const int64_t windows = sampled.ids.size(0), tokens = sampled.ids.numel();
  ImportanceMeter meter(parent);
  Progress progress("shrink", tokens, "tokens");
  for (int64_t first = 0; first < windows; first += config.batch_size) {
    throw_if_interrupted();
    const int64_t count = std::min(config.batch_size, windows - first);
    meter.add(sampled.ids.narrow(0, first, count), sampled.segments_of(first, count));
    progress.update((first + count) * sampled.ids.size(1));
  }
  const PartImportance importance = meter.result();
  const KeptParts kept = most_important(importance, counts);

  const DType dtype = written_dtype(config.dtype, checkpoint);
  const bool parent_ties = dense.tie_embeddings || at::equal(parent.head(), parent.weights().embedding);
  ModelConfig shape = shrunk_config(dense, counts);
  shape.tie_embeddings = resolve_tie(config.tie, parent_ties, /*needs_head=*/false);
  Decoder student(shape, ShrunkTensors(*checkpoint.tensors, dense, shape, kept, parent.head()));
  round_weights(student, dtype);
  save_decoder(student, outputs.folder(), dtype);
  copy_companions_noted(path, outputs.folder());

  Json widths = Json::array();
  for (const int64_t l : kept.layers)
    widths.push_back({{"layer", l}, {"kv_heads", numbers_of(kept.kv_heads[size_t(l)])}, {"neurons", numbers_of(kept.neurons[size_t(l)])}});
  outputs.folder().write_file(
      "shrinking.json",
      Json{{"block_influence", importance.layers}, {"layers", widths}, {"dimensions", numbers_of(kept.dimensions)}}.dump(1) + "\n");

  StageReport report;
  report.metrics() = {{"tokens", tokens},
                      {"windows", windows},
                      {"parameters", shape.parameters()},
                      {"parent_parameters", dense.parameters()},
                      {"layers_kept", kept.layers},
                      {"block_influence", importance.layers},
                      {"neuron_importance_kept", kept_share(importance.neurons, kept.neurons, kept.layers)},
                      {"head_importance_kept", kept_share(importance.kv_heads, kept.kv_heads, kept.layers)},
                      {kComputeMetric, compute.name()}};
  record_dtype(report.metrics(), dtype);
  const std::string tying =
      record_tie(report.metrics(), config.tie, parent_ties, shape.tie_embeddings, shape.vocab_size * shape.hidden_size * dtype_bytes(dtype));
  report.summary = {fmt::format("{:.1f} of {:.1f} million parameters: layers {} of {}, FFN {} of {}, KV heads {} of {}, hidden {} of {}",
                                double(shape.parameters()) / 1e6, double(dense.parameters()) / 1e6, shape.layers, dense.layers,
                                shape.intermediate_size, dense.intermediate_size, shape.kv_heads, dense.kv_heads, shape.hidden_size,
                                dense.hidden_size),
                    compute.summary()};
  if (shape.layers < dense.layers) report.summary.push_back(fmt::format("kept layers {}", fmt::join(kept.layers, ", ")));
  if (!tying.empty()) report.summary.push_back(tying);
  return report;
}

}  // namespace overproof
