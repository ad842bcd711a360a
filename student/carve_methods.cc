#include "student/carve_methods.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "student/clusters.h"
#include "student/router_fit.h"

namespace overproof {
namespace {

using at::Tensor;

std::vector<int64_t> shuffled(int64_t count, uint64_t seed, uint64_t layer) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed, "carve/random", layer);
  for (int64_t i = count - 1; i > 0; --i) std::swap(order[size_t(i)], order[size_t(rng.below(uint64_t(i) + 1))]);
  return order;
}

/// Neuron numbers, descending by value; of equal ones the first.
Tensor by_value(const Tensor& values) { return std::get<1>(values.sort(/*stable=*/true, 0, /*descending=*/true)); }

/// Shared and routed neurons by a score, and the routed ones clustered by rows of `profiles` [ff, features].
struct Clustered {
  Tensor neurons, routed;
  EuclideanClusters clusters;  ///< of `routed`
};

Clustered cluster_by(const Tensor& score, const Tensor& profiles, const SplitOptions& options, bool from_highest) {
  const int64_t ff = score.size(0), shared = ff / (options.experts + options.shared) * options.shared;
  const Tensor ranked = by_value(score);
  Clustered made;
  made.routed = std::get<0>(ranked.narrow(0, shared, ff - shared).sort());
  const Tensor rows = profiles.index_select(0, made.routed);
  const Tensor centres = from_highest ? profiles.index_select(0, ranked.narrow(0, shared, options.experts))
                                      : euclidean_centres(rows, options.experts, options.seed, options.layer);
  made.clusters = balanced_euclidean_kmeans(rows, centres, options.iterations);
  const Tensor by_cluster = std::get<1>(at::tensor(made.clusters.cluster).sort(/*stable=*/true, 0, /*descending=*/false));
  made.neurons = at::cat({std::get<0>(ranked.narrow(0, 0, shared).sort()), made.routed.index_select(0, by_cluster)});
  return made;
}

NeuronSplit cmoe(const Tensor& activations, const SplitOptions& options) {
  const Tensor markers = activation_markers(activations, options.active);
  const Tensor profiles = markers.t().contiguous();
  const Clustered made = cluster_by(markers.mean(0), profiles, options, /*from_highest=*/true);
  // The neuron of each cluster that is nearest to its centre.
  const Tensor rows = profiles.index_select(0, made.routed), cluster = at::tensor(made.clusters.cluster);
  const Tensor distance = (rows - made.clusters.centres.index_select(0, cluster)).square().sum(1);
  std::vector<int64_t> representative;
  for (int64_t e = 0; e < options.experts; ++e) {
    const Tensor members = (cluster == e).nonzero().flatten();
    representative.push_back(made.routed[members[distance.index_select(0, members).argmin()]].item<int64_t>());
  }
  return {.neurons = made.neurons, .representatives = at::tensor(representative), .gate = {}};
}

NeuronSplit expertweaver(const Tensor& gate_up, const Tensor& input, const SplitOptions& options) {
  const Tensor profiles = gate_profiles(gate_up, input, options.window);
  const Clustered made = cluster_by(profiles.mean(0), profiles.t().contiguous(), options, /*from_highest=*/false);
  const int64_t ff = gate_up.size(0) / 2, width = ff / (options.experts + options.shared), first = options.shared * width;
  NeuronSplit split{.neurons = made.neurons, .representatives = {}, .gate = {}};
  split.gate = gate_up.narrow(0, 0, ff)
                   .index_select(0, made.neurons.narrow(0, first, ff - first))
                   .view({options.experts, width, -1})
                   .mean(1);
  split.specialised = (coefficient_of_variation(profiles) > kSpecialised).to(at::kDouble).mean().item<double>();
  return split;
}

}  // namespace

std::string_view method_name(CarveMethod method) {
  switch (method) {
    case CarveMethod::clusters:
      break;
    case CarveMethod::random:
      return "random";
    case CarveMethod::order:
      return "order";
    case CarveMethod::cmoe:
      return "cmoe";
    case CarveMethod::expertweaver:
      return "expertweaver";
  }
  return "clusters";
}

Tensor activation_markers(const Tensor& activations, int64_t active) {
  return largest(activations.abs(), std::min(active, activations.size(1)));
}

Tensor gate_profiles(const Tensor& gate_up, const Tensor& input, int64_t window) {
  const int64_t ff = gate_up.size(0) / 2, length = std::clamp<int64_t>(window, 1, input.size(0)), windows = input.size(0) / length;
  const Tensor gates = at::silu(at::matmul(input.narrow(0, 0, windows * length), gate_up.narrow(0, 0, ff).t())).abs_();
  return gates.view({windows, length, ff}).mean(1);
}

Tensor coefficient_of_variation(const Tensor& profiles) {
  return profiles.std(0, /*unbiased=*/false) / (profiles.mean(0) + 1e-12);
}

NeuronSplit split_neurons(CarveMethod method, const Tensor& gate_up, const Tensor& input, const Tensor& activations,
                          const SplitOptions& options) {
  const int64_t ff = gate_up.size(0) / 2, width = ff / (options.experts + options.shared);
  OVERPROOF_CHECK(ff == width * (options.experts + options.shared) && method != CarveMethod::clusters);
  if (method == CarveMethod::cmoe) return cmoe(activations, options);
  if (method == CarveMethod::expertweaver) return expertweaver(gate_up, input, options);
  if (method == CarveMethod::order) return {.neurons = at::arange(ff, at::kLong), .representatives = {}, .gate = {}};
  std::vector<int64_t> order = shuffled(ff, options.seed, options.layer);
  for (int64_t at = 0; at < ff; at += width) std::sort(order.begin() + at, order.begin() + at + width);
  return {.neurons = at::tensor(order), .representatives = {}, .gate = {}};
}

}  // namespace overproof
