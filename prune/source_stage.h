#pragma once
// Stage "prune-source": removes the routed experts that one source of the corpus shaped most, chosen by the router counts of the
// training (records/router_counts.h).
//
// prune/expert_cut.h removes them. All layers have one number of experts, so layers that lose different numbers need a rule:
//   uneven = empty  each layer shrinks by as many experts as the layer that loses fewest. Every further removed expert leaves an
//                   empty place: zero weights and a router bias with which no token is routed there. Exactly the experts over the
//                   threshold are removed.
//   uneven = rank   each layer loses as many experts as the layer that loses most, in the order of their share of the source.
//
// Limits: attention, norms, embeddings, shared experts and the remaining experts were trained on the source as well.

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/stage.h"
#include "prune/expert_cut.h"
#include "records/router_counts.h"

namespace overproof {

enum class Uneven { empty, rank };

struct PruneSourceConfig {
  std::string drop_source;
  double threshold = 0.5;
  Uneven uneven = Uneven::empty;
  WeightDType dtype = WeightDType::automatic;
  template <class V>
  void visit(V&& v) {
    v("drop-source", drop_source, any_value(), "source of the corpus whose experts are removed");
    v("threshold", threshold, in_range(0, 1), "remove an expert when more than this share of its tokens came from the source");
    v("uneven", uneven, enum_of<Uneven>({{"empty", Uneven::empty}, {"rank", Uneven::rank}}),
      "where layers lose different numbers of experts; empty: zeroed experts that receive no token; rank: all layers lose as many");
    visit_weight_dtype(v, dtype);
  }
};

/// The experts to remove. `source`: an index into counts.sources. Throws UsageError when no expert's share exceeds `threshold`,
/// or a layer would have no expert left.
std::vector<LayerDrop> choose_drop(const RouterCounts& counts, int64_t source, double threshold, Uneven uneven);

/// Slots "student" (a glm4_moe or qwen2_moe checkpoint, not quantized) and optionally "counts" (an artifact with the router counts to use; else
/// the student's own). Writes the smaller checkpoint (dtype = auto: each tensor in its own), its
/// tokenizer and the counts of the remaining experts.
/// Throws UsageError for an unknown source or an unusable threshold, FormatError for a checkpoint of another kind or with missing
/// tensors, MismatchError when the counts belong to a model of another shape.
StageReport run_prune_source(const PruneSourceConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
