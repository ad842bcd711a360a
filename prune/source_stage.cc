#include "prune/source_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

/// Experts of a layer by descending share of the source; equal shares in ascending order.
std::vector<int64_t> by_mass(const RouterCounts& counts, int64_t source, int64_t layer) {
  std::vector<int64_t> experts(static_cast<size_t>(counts.experts));
  std::iota(experts.begin(), experts.end(), int64_t{0});
  std::ranges::stable_sort(experts,
                           [&](int64_t a, int64_t b) { return counts.mass(source, layer, a) > counts.mass(source, layer, b); });
  return experts;
}

Json removed_list(const RouterCounts& counts, int64_t source, const std::vector<LayerDrop>& drops) {
  Json list = Json::array();
  for (size_t l = 0; l < drops.size(); ++l)
    for (const int64_t e : drops[l].removed)
      list.push_back({{"layer", l},
                      {"expert", e},
                      {"mass", counts.mass(source, int64_t(l), e)},
                      {"tokens", counts.of_expert(int64_t(l), e)},
                      {"tokens_of_source", counts.at(source, int64_t(l), e)}});
  return list;
}

}  // namespace

std::vector<LayerDrop> choose_drop(const RouterCounts& counts, int64_t source, double threshold, Uneven uneven) {
  OVERPROOF_CHECK(source >= 0 && source < int64_t(counts.sources.size()));
  std::vector<std::vector<int64_t>> ranked;
  std::vector<int64_t> over;  // how many of each layer exceed the threshold
  double largest = 0;
  int64_t where_layer = 0, where_expert = 0;
  for (int64_t l = 0; l < counts.layers; ++l) {
    ranked.push_back(by_mass(counts, source, l));
    const auto exceeds = [&](int64_t e) { return counts.mass(source, l, e) > threshold; };
    over.push_back(std::ranges::count_if(ranked.back(), exceeds));
    if (const double mass = counts.mass(source, l, ranked.back().front()); mass > largest)
      largest = mass, where_layer = l, where_expert = ranked.back().front();
  }
  const int64_t most = *std::ranges::max_element(over);
  if (most == 0)
    throw UsageError(
        fmt::format("no expert took more than {:.4g} of its tokens from '{}'; the largest share is {:.4g} (layer {}, expert {}). Lower "
                    "threshold to remove it",
                    threshold, counts.sources[size_t(source)], largest, where_layer, where_expert));
  if (most >= counts.experts)
    throw UsageError(
        fmt::format("layer {} would have no expert left: each took more than {:.4g} of its tokens from '{}'. Raise threshold",
                    std::ranges::max_element(over) - over.begin(), threshold, counts.sources[size_t(source)]));
  const bool fill_by_rank = uneven == Uneven::rank;
  const int64_t gone = std::min(fill_by_rank ? most : *std::ranges::min_element(over), counts.experts - kLeastExperts);

  std::vector<LayerDrop> drops;
  for (int64_t l = 0; l < counts.layers; ++l) {
    const std::vector<int64_t>& rank = ranked[size_t(l)];
    LayerDrop drop;
    drop.removed.assign(rank.begin(), rank.begin() + (fill_by_rank ? most : over[size_t(l)]));
    std::ranges::sort(drop.removed);
    std::vector<int64_t> staying(rank.begin() + gone, rank.end());
    std::ranges::sort(staying);
    for (const int64_t e : staying) drop.places.push_back(std::ranges::binary_search(drop.removed, e) ? -1 : e);
    drops.push_back(std::move(drop));
  }
  return drops;
}

StageReport run_prune_source(const PruneSourceConfig& config, const Inputs& inputs, Outputs& outputs) {
  if (config.drop_source.empty()) throw UsageError("prune-source: --drop-source is missing (the source to remove)");
  const Checkpoint student = open_checkpoint(inputs.path("student"));
  const RoutedExperts given = read_routed_experts(student);
  const int64_t layers = given.layers, experts = given.experts, top_k = given.top_k;
  const std::string counts_slot = inputs.has("counts") ? "counts" : "student";
  if (!has_router_counts(inputs.path(counts_slot)))
    throw MismatchError(fmt::format("{}: has no {}; give an artifact with the counts of the same experts by --counts",
                                    inputs.path(counts_slot).filename().string(), kRouterCountsFile));
  const RouterCounts counts = read_router_counts(inputs.path(counts_slot));
  if (counts.layers != layers || counts.experts != experts)
    throw MismatchError(fmt::format("shapes differ: router counts {} layers x {} experts, student {} x {}", counts.layers,
                                    counts.experts, layers, experts));
  const int64_t source = counts.find(config.drop_source);
  const std::vector<LayerDrop> drops = choose_drop(counts, source, config.threshold, config.uneven);

  const int64_t new_top_k = write_without_experts(student, counts, drops, config.dtype, outputs.folder());

  const auto places = int64_t(drops.front().places.size());
  int64_t removed = 0, empty = 0, of_source = 0, left = 0;
  Json kept = Json::array();
  for (int64_t l = 0; l < layers; ++l) {
    const LayerDrop& drop = drops[size_t(l)];
    removed += int64_t(drop.removed.size());
    empty += std::ranges::count(drop.places, int64_t{-1});
    of_source += counts.of_source(source, l);
    for (const int64_t e : drop.places) left += e >= 0 ? counts.at(source, l, e) : 0;
    kept.push_back(drop.places);
  }
  const double share_left = of_source > 0 ? double(left) / double(of_source) : 0.0;
  StageReport report;
  report.metrics() = {{"drop_source", config.drop_source},
                      {"source_tokens", counts.tokens[size_t(source)]},
                      {"removed", removed_list(counts, source, drops)},
                      {"places", kept},  // [layers][place]: expert of the parent, -1 for an empty place
                      {"experts_before", experts},
                      {"experts_after", places},
                      {"empty_places", empty},
                      {"top_k_before", top_k},
                      {"top_k", new_top_k},
                      {"source_share_left", share_left}};
  record_dtype(report.metrics(), written_dtype(config.dtype, student));
  report.summary = {
      fmt::format("removed {} of {} experts that took more than {:.4g} of their tokens from '{}'{}", removed, layers * experts,
                  config.threshold, config.drop_source, config.uneven == Uneven::rank ? ", and the next by rank in other layers" : ""),
      fmt::format("{} experts a layer (were {}), {} of all places empty; top-k {} (was {})", places, experts, empty, new_top_k,
                  top_k),
      fmt::format(
          "{:.1f} % of the routed choices for the source's {} tokens remain; attention, norms, embeddings and shared experts "
          "were trained on all sources and are unchanged",
          100 * share_left, counts.tokens[size_t(source)])};
  return report;
}

}  // namespace overproof
