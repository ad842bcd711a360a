#pragma once
// Removes routed experts from a mixture of experts, or merges them: the part that all methods of choosing them share. Every model type has one
// number of experts for all layers, so a layer that loses fewer than another gets empty places: zero weights and a router bias with which
// no token is routed there; only where routers have such a bias. The remaining experts keep their order and are renumbered, with their
// router rows and biases. Layers without experts stay as they are; layers that predict further tokens are left out, because nothing observes them.

#include <cstdint>
#include <vector>

#include "core/file.h"
#include "formats/weight_dtype.h"
#include "records/router_counts.h"

namespace overproof {

inline constexpr int64_t kLeastExperts = 2;  ///< loaders need at least two in a layer

/// The routed experts of a checkpoint, by its configuration.
struct RoutedExperts {
  int64_t layers = 0, experts = 0, top_k = 0;
  std::vector<char> present;  ///< [layers] whether the layer has experts
  int64_t predicting_layers = 0;  ///< behind them: layers that predict further tokens
  int64_t layers_with() const;
};
/// Throws FormatError for a model without routed experts (formats/model_kinds.h lists the types that have them), one that is quantized, and one
/// whose router chooses among groups of experts, which removing experts would change.
RoutedExperts read_routed_experts(const Checkpoint& model);

/// The experts to remove from one layer.
struct LayerDrop {
  std::vector<int64_t> removed;  ///< experts of the parent, ascending
  std::vector<int64_t> places;   ///< expert of the parent in each place of the new model; -1: an empty place; none: a layer without experts
};

/// An expert of the parent, and its part in an expert of the new model.
struct ExpertShare {
  int64_t expert = 0;
  double weight = 1;
  bool operator==(const ExpertShare&) const = default;
};
/// The experts of one layer of the new model, by what they are made of, in ascending order of experts; none: an empty place.
using LayerPlaces = std::vector<std::vector<ExpertShare>>;

/// Writes `model` with the experts of places[layer], as many in each layer that has experts and none in the others, and its tokenizer files. Where a place has several shares, the matrices
/// of the expert, its router row and its bias are the sums of weight x those of the parent's experts, in f64; one share of weight 1 is copied
/// as it is. `counts`: of the parent's experts, written for the new ones as sums; may be null. Otherwise as write_without_experts(). Throws
/// MismatchError for an empty place where the router has no bias.
int64_t write_experts(const Checkpoint& model, const RouterCounts* counts, const std::vector<LayerPlaces>& places, WeightDType dtype,
                      OutputFolder& folder);

/// Writes `model` with the experts of drops[layer].places, as many places in each layer, its tokenizer
/// files and the counts of the remaining experts. `dtype`: automatic leaves each tensor its own. Returns the new num_experts_per_tok: the old one, lowered where a layer has fewer
/// experts left. Throws FormatError when tensors are missing, or their shapes or dtypes are others than the configuration's.
int64_t write_without_experts(const Checkpoint& model, const RouterCounts& counts, const std::vector<LayerDrop>& drops,
                              WeightDType dtype, OutputFolder& folder);

}  // namespace overproof
