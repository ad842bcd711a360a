#include "prune/neuron_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "prune/picked_rows.h"

namespace overproof {
namespace {

/// Calls body(row, values) for each row of a layer's down_proj.
template <class Body>
void each_down_row(const Checkpoint& model, const DenseFfn& ffn, int64_t layer, const Body& body) {
  const std::string name = fmt::format("model.layers.{}.mlp.down_proj.weight", layer);
  const TensorInfo* info = model.tensors->find(name);
  if (!info || info->shape != std::vector<int64_t>{ffn.hidden_size, ffn.neurons})
    throw FormatError(model.path, -1, fmt::format("{} is missing, or is not the [{}, {}] of the configuration", name, ffn.hidden_size, ffn.neurons));
  const int64_t block = std::max<int64_t>(1, kPrunedBlockElements / ffn.neurons);
  std::vector<float> values;
  for (int64_t row = 0; row < ffn.hidden_size; row += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, ffn.hidden_size - row);
    values.resize(size_t(n * ffn.neurons));
    model.tensors->read_f32(name, row, n, values);
    for (int64_t r = 0; r < n; ++r) body(row + r, std::span(values).subspan(size_t(r * ffn.neurons), size_t(ffn.neurons)));
  }
}

}  // namespace

std::vector<float> neuron_scores(NeuronMethod method, const FfnStatistics& statistics, const Checkpoint& model, const DenseFfn& ffn, int64_t layer) {
  if (method == NeuronMethod::active) return statistics.importance(layer);
  if (method == NeuronMethod::taylor) return statistics.taylor(layer);
  const std::vector<float> variance = statistics.variance(layer);
  std::vector<double> squares(variance.size(), 0.0);
  each_down_row(model, ffn, layer, [&](int64_t, std::span<const float> row) {
    for (size_t j = 0; j < row.size(); ++j) squares[j] += double(row[j]) * row[j];
  });
  std::vector<float> scores(variance.size());
  for (size_t j = 0; j < scores.size(); ++j) {
    scores[j] = float(variance[j] * squares[j]);
    if (!std::isfinite(scores[j]))
      throw FormatError(model.path, -1, fmt::format("layer {}: the score of neuron {} is beyond what f32 holds", layer, j));
  }
  return scores;
}

std::vector<float> compensating_bias(const std::vector<float>& mean, const std::vector<int64_t>& kept, const Checkpoint& model, const DenseFfn& ffn,
                                     int64_t layer) {
  std::vector<double> removed(mean.begin(), mean.end());
  for (const int64_t j : kept) removed[size_t(j)] = 0;
  std::vector<float> bias(size_t(ffn.hidden_size), 0.0f);
  each_down_row(model, ffn, layer, [&](int64_t i, std::span<const float> row) {
    double sum = 0;
    for (size_t j = 0; j < row.size(); ++j) sum += removed[j] * row[j];
    bias[size_t(i)] = float(sum);
  });
  return bias;
}

}  // namespace overproof
