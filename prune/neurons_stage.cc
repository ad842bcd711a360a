#include "prune/neurons_stage.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/model_kinds.h"
#include "records/ffn_statistics.h"

namespace overproof {
namespace {

const char* name_of(NeuronMethod method) {
  return method == NeuronMethod::active ? "active" : method == NeuronMethod::flap ? "flap" : "taylor";
}

/// Whether transformers gives the FFNs of this architecture biases where config.json has the key.
bool can_have_bias(const Checkpoint& model) {
  const ModelKind* kind = find_model_kind(JsonObject(*model.config, model.path, "", JsonNull::absent).text("model_type", ""));
  return kind && kind->is(ModelKind::llama);
}

}  // namespace

StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint teacher = open_checkpoint(inputs.path("teacher"));
  const FfnStatistics statistics(inputs.path("statistics"));
  const DenseFfn ffn = read_dense_ffn(teacher);
  statistics.require_teacher(inputs.root("teacher"), ffn.layers, ffn.hidden_size, ffn.neurons);
  const int64_t kept = kept_neurons(ffn.neurons, config.keep);
  const bool can = can_have_bias(teacher);
  if (config.bias == PruneNeuronsConfig::Bias::yes && !can)
    throw MismatchError(fmt::format("{}: FFNs of its architecture have no bias in transformers, only llama's do (mlp_bias); use bias = no",
                                    inputs.path("teacher").filename().string()));
  const bool with_bias =
      config.bias == PruneNeuronsConfig::Bias::yes || (config.bias == PruneNeuronsConfig::Bias::automatic && config.method == NeuronMethod::flap && can);

  // The selection, and its share of all scores, for each layer.
  std::vector<std::vector<int64_t>> picked;
  std::vector<std::vector<float>> bias;
  double share_sum = 0, share_least = 1;
  for (int64_t layer = 0; layer < ffn.layers; ++layer) {
    const std::vector<float> scores = neuron_scores(config.method, statistics, teacher, ffn, layer);
    picked.push_back(highest_scores(scores, kept));
    if (with_bias) bias.push_back(compensating_bias(statistics.mean(layer), picked.back(), teacher, ffn, layer));
    double all = 0, left = 0;
    for (const float x : scores) all += x;
    for (const int64_t j : picked.back()) left += scores[size_t(j)];
    const double share = all > 0 ? left / all : double(kept) / double(ffn.neurons);
    share_sum += share;
    share_least = std::min(share_least, share);
  }
  StageReport report;
  report.metrics() = {{"neurons", ffn.neurons},
                      {"kept", kept},
                      {"layers", ffn.layers},
                      {"method", name_of(config.method)},
                      {"bias", with_bias},
                      {"importance_kept_mean", share_sum / double(ffn.layers)},
                      {"importance_kept_least", share_least}};
  report.summary = {
      fmt::format("kept {} of {} neurons in each of {} layers ({:.1f} %) by {}, with {:.1f} % of the measured importance "
                  "({:.1f} % in the worst layer)",
                  kept, ffn.neurons, ffn.layers, 100.0 * double(kept) / double(ffn.neurons), name_of(config.method),
                  100.0 * share_sum / double(ffn.layers), 100.0 * share_least)};
  if (with_bias) report.summary.push_back("down_proj has a bias for the mean of what removed neurons gave (mlp_bias)");
  else if (config.bias == PruneNeuronsConfig::Bias::automatic && config.method == NeuronMethod::flap)
    report.summary.push_back("no bias replaces the removed neurons: the architecture has none in transformers");
  write_with_neurons(teacher, picked, bias, config.written, outputs.folder(), report);
  return report;
}

}  // namespace overproof
