#include "prune/experts_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "prune/expert_choice.h"

namespace overproof {
namespace {

using Method = PruneExpertsConfig::Method;

const char* name_of(Method method) { return method == Method::frequency ? "frequency" : method == Method::reap ? "reap" : "merge"; }

LayerPlaces places_of(const std::vector<int64_t>& experts) {
  LayerPlaces places;
  for (const int64_t e : experts) places.push_back({{e, 1}});
  return places;
}

/// Clusters of experts with their parts in the average, which sum to 1.
LayerPlaces merged_places(const ExpertObservation& seen, int64_t count, const std::vector<int64_t>& alone, bool by_frequency) {
  LayerPlaces places;
  for (const std::vector<int64_t>& cluster : average_linkage(seen.mean_output, int64_t(seen.tokens.size()), count, alone)) {
    double sum = 0;
    for (const int64_t e : cluster) sum += seen.tokens[size_t(e)];
    std::vector<ExpertShare>& shares = places.emplace_back();
    for (const int64_t e : cluster)
      shares.push_back({e, by_frequency && sum > 0 ? seen.tokens[size_t(e)] / sum : 1.0 / double(cluster.size())});
    if (shares.size() == 1) shares[0].weight = 1;
  }
  return places;
}

}  // namespace

StageReport run_prune_experts(const PruneExpertsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint student = open_checkpoint(inputs.path("student"));
  const RoutedExperts given = read_routed_experts(student);
  const int64_t layers = given.layers, experts = given.experts, top_k = given.top_k;
  if (fs::is_directory(inputs.path("statistics")) && !fs::exists(inputs.path("statistics") / kExpertStatisticsFile))
    throw MismatchError(fmt::format("{}: has no {}; run observe on the mixture of experts (its slot is called teacher)",
                                    inputs.path("statistics").filename().string(), kExpertStatisticsFile));
  const ExpertStatistics statistics(inputs.path("statistics"));
  statistics.require_model(inputs.root("student"), layers, experts);
  std::optional<RouterCounts> counts;
  if (has_router_counts(inputs.path("student"))) counts = read_router_counts(inputs.path("student"));
  if (counts && (counts->layers != layers || counts->experts != experts))
    throw MismatchError(fmt::format("shapes differ: router counts {} layers x {} experts, student {} x {}", counts->layers, counts->experts, layers, experts));

  const int64_t kept = std::clamp(int64_t(std::llround(config.keep * double(experts))), std::min(kLeastExperts, experts), experts);
  std::vector<ExpertObservation> seen;
  std::vector<std::vector<float>> largest;
  for (int64_t l = 0; l < layers; ++l) {
    seen.push_back(statistics.read(l));
    largest.push_back(seen.back().largest);
  }
  const std::vector<std::vector<int64_t>> always = config.protect ? super_experts(largest) : std::vector<std::vector<int64_t>>(size_t(layers));

  std::vector<LayerPlaces> places;
  Json written = Json::array(), protected_ones = Json::array();
  double routed = 0, routed_left = 0;
  for (int64_t l = 0; l < layers; ++l) {
    const ExpertObservation& layer = seen[size_t(l)];
    const std::vector<int64_t>& safe = always[size_t(l)];
    // A merge needs one more cluster than those that stay alone.
    const auto room = int64_t(safe.size()) + (config.method == Method::merge && kept < experts);
    if (room > kept)
      throw UsageError(fmt::format("layer {}: {} super-experts are protected, and {} experts would be left; keep more, or set protect-super-experts = false",
                                   l, safe.size(), kept));
    if (config.method == Method::merge) {
      places.push_back(merged_places(layer, kept, safe, config.shares == PruneExpertsConfig::Shares::frequency));
    } else {
      std::vector<double> scores(layer.tokens.begin(), layer.tokens.end());
      if (config.method == Method::reap) scores.assign(layer.reap.begin(), layer.reap.end());
      places.push_back(places_of(best_experts(scores, kept, safe)));
    }
    Json layer_places = Json::array();
    for (const auto& shares : places.back()) {
      Json members = Json::array();
      for (const ExpertShare& share : shares) {
        members.push_back(share.expert);
        routed_left += layer.tokens[size_t(share.expert)];
      }
      layer_places.push_back(std::move(members));
    }
    for (const int32_t n : layer.tokens) routed += n;
    written.push_back(std::move(layer_places));
    for (const int64_t e : safe) protected_ones.push_back({{"layer", l}, {"expert", e}, {"largest", layer.largest[size_t(e)]}});
  }
  const int64_t new_top_k = write_experts(student, counts ? &*counts : nullptr, places, config.dtype, outputs.folder());

  const double share_left = routed > 0 ? routed_left / routed : 0.0;
  StageReport report;
  report.metrics() = {{"method", name_of(config.method)}, {"experts_before", experts}, {"experts_after", kept},
                      {"top_k_before", top_k},            {"top_k", new_top_k},        {"routed_share_left", share_left},
                      {"places", std::move(written)},     {"super_experts", protected_ones}};  // places [layers][place][experts of the parent]
  record_dtype(report.metrics(), written_dtype(config.dtype, student));
  report.summary = {config.method == Method::merge
                        ? fmt::format("{} experts merged into {} in each of {} layers, by their mean outputs", experts, kept, layers)
                        : fmt::format("{} of {} experts stay in each of {} layers, by {}; {:.1f} % of the observed choices were theirs", kept, experts,
                                      layers, name_of(config.method), 100 * share_left)};
  if (config.protect) report.summary.push_back(fmt::format("{} super-experts were protected", protected_ones.size()));
  if (new_top_k != top_k) report.summary.push_back(fmt::format("top-k {} (was {})", new_top_k, top_k));
  return report;
}

}  // namespace overproof
