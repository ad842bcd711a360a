#include "prune/neurons_stage.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/json.h"
#include "records/ffn_statistics.h"

namespace overproof {

StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint teacher = open_checkpoint(inputs.path("teacher"));
  const FfnStatistics statistics(inputs.path("statistics"));
  const DenseFfn ffn = read_dense_ffn(teacher);
  statistics.require_teacher(inputs.root("teacher"), ffn.layers, ffn.hidden_size, ffn.neurons);
  const int64_t kept = kept_neurons(ffn.neurons, config.keep);

  // The selection, and its share of the importance, for each layer.
  std::vector<std::vector<int64_t>> picked;
  double share_sum = 0, share_least = 1;
  for (int64_t layer = 0; layer < ffn.layers; ++layer) {
    const std::vector<float> importance = statistics.importance(layer);
    picked.push_back(highest_scores(importance, kept));
    double all = 0, left = 0;
    for (const float x : importance) all += x;
    for (const int64_t j : picked.back()) left += importance[size_t(j)];
    const double share = all > 0 ? left / all : double(kept) / double(ffn.neurons);
    share_sum += share;
    share_least = std::min(share_least, share);
  }
  StageReport report;
  report.metrics() = {{"neurons", ffn.neurons},
                      {"kept", kept},
                      {"layers", ffn.layers},
                      {"importance_kept_mean", share_sum / double(ffn.layers)},
                      {"importance_kept_least", share_least}};
  report.summary = {
      fmt::format("kept {} of {} neurons in each of {} layers ({:.1f} %), with {:.1f} % of the measured importance "
                  "({:.1f} % in the worst layer)",
                  kept, ffn.neurons, ffn.layers, 100.0 * double(kept) / double(ffn.neurons),
                  100.0 * share_sum / double(ffn.layers), 100.0 * share_least)};
  write_with_neurons(teacher, picked, config.written, outputs.folder(), report);
  return report;
}

}  // namespace overproof
