#pragma once
// The `prune` stage with --drop-source: removes the routed experts that a source of the corpus shaped most, by the router counts
// of the training (records/router_counts.h).
//
// glm4_moe has one number of experts for all layers, so layers that lose different numbers cannot all shrink to what is left:
//   uneven = empty  each layer shrinks by as many as the layer that loses fewest; what else must go leaves an empty place:
//   weights
//                   of zero, and a balancing bias by which no token is ever sent there. Exactly the named experts are gone.
//   uneven = rank   each layer loses as many as the layer that loses most, the next ones by their share of the source.
// Experts keep their order and are numbered anew; router rows and biases go with them. When a layer has fewer experts left than a
// token used, num_experts_per_tok is lowered to that.
//
// What this cannot do: attention, norms, embeddings, shared experts and the experts that stay were trained on the source as well.

#include <cstdint>
#include <vector>

#include "records/router_counts.h"
#include "prune/static_stage.h"

namespace overproof {

/// Of one layer.
struct LayerDrop {
  std::vector<int64_t> removed;  ///< experts of the parent, ascending
  std::vector<int64_t> places;   ///< expert of the parent in each place of the new model; -1: an empty place
};

/// Which experts go. `fill_by_rank`: uneven = rank. Throws UsageError when no expert's share exceeds `threshold`, or a layer
/// would have none left.
std::vector<LayerDrop> choose_drop(const RouterCounts& counts, int64_t source, double threshold, bool fill_by_rank);

/// Slots "student" (a glm4_moe checkpoint, not quantised) and optionally "counts" (an artifact whose router counts decide; else
/// the student's own). Writes the smaller checkpoint in the dtypes it had, its tokenizer and the counts of the experts that stay.
/// Throws UsageError when counts and model have other shapes.
StageReport run_drop_source(const PruneConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
