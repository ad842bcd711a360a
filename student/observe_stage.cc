#include "student/observe_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/windows.h"
#include "student/ffn.h"
#include "student/statistics.h"

namespace overproof {

StageReport run_observe(const ObserveConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  require_tokenizer(inputs.path("teacher"), corpus.tokenizer(), "the corpus");
  const Decoder teacher = open_dense_teacher(inputs.path("teacher"));
  const ModelConfig& shape = teacher.config();

  const at::Tensor ids = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
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
    options.on_ffn_input = [&](int64_t layer, const at::Tensor& input) {
      const LayerWeights& weights = teacher.layers()[size_t(layer)];
      seen[size_t(layer)].narrow(0, first * length, count * length).copy_(input);
      importance[size_t(layer)] +=
          neuron_contributions(neuron_activations(weights.gate_up, input), weights.down).sum(0, false, at::kDouble);
    };
    teacher.hidden(ids.narrow(0, first, count), options);
    progress.update((first + count) * length);
  }

  std::vector<TensorInfo> infos = {{"tokens", DType::i32, {tokens}}};
  for (int64_t l = 0; l < shape.layers; ++l) {
    infos.push_back({fmt::format("layers.{}.ffn_input", l), DType::f16, {tokens, shape.hidden_size}});
    infos.push_back({fmt::format("layers.{}.importance", l), DType::f32, {shape.intermediate_size}});
  }
  const Metadata metadata = {{"format_version", "1"},
                             {"teacher_root", inputs.root("teacher").hex()},
                             {"corpus_root", inputs.root("corpus").hex()},
                             {"tokens", std::to_string(tokens)},
                             {"window_length", std::to_string(length)},
                             {"layers", std::to_string(shape.layers)},
                             {"hidden_size", std::to_string(shape.hidden_size)},
                             {"intermediate_size", std::to_string(shape.intermediate_size)}};
  SafetensorsWriter writer(outputs.folder(), kStatisticsFile, infos, metadata);
  const at::Tensor narrow_ids = ids.to(at::kInt);
  writer.append(narrow_ids.data_ptr(), size_t(narrow_ids.nbytes()));
  for (int64_t l = 0; l < shape.layers; ++l) {
    writer.append(seen[size_t(l)].data_ptr(), size_t(seen[size_t(l)].nbytes()));
    const at::Tensor mean = (importance[size_t(l)] / double(tokens)).to(at::kFloat);
    writer.append(mean.data_ptr(), size_t(mean.nbytes()));
  }
  writer.close();

  StageReport report;
  report.metrics() = {{"tokens", tokens}, {"windows", windows}, {"layers", shape.layers}};
  report.summary.push_back(fmt::format("observed {} tokens in {} layers", tokens, shape.layers));
  return report;
}

}  // namespace overproof
