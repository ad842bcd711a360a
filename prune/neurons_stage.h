#pragma once
// Stage "prune-neurons": keeps the FFN neurons with the largest mean activity in each layer and removes the others. There is no
// routing: this is the baseline that a sparse student with the same number of active neurons has to beat.
//
// Neuron j of a gated FFN is row j of gate_proj and up_proj and column j of down_proj; removing it removes its term from
//   down(silu(gate x) * (up x)) = sum_j down[:, j] silu(gate_j . x) (up_j . x).

#include <cstdint>
#include <span>
#include <vector>

#include "core/config.h"
#include "core/stage.h"
#include "formats/head_tying.h"
#include "formats/weight_dtype.h"

namespace overproof {

struct PruneNeuronsConfig {
  double keep = 0.25;
  WeightDType dtype = WeightDType::automatic;
  Tie tie = Tie::automatic;
  template <class V>
  void visit(V&& v) {
    v("keep", keep, in_range(0.001, 1.0), "fraction of FFN neurons to keep in each layer, rounded to a multiple of 32 neurons");
    visit_weight_dtype(v, dtype);
    visit_tie(v, tie);
  }
};

/// Slots "teacher" (a dense checkpoint) and "statistics" (statistics.safetensors with "layers.{l}.importance" F32 [ff]). Writes a
/// dense checkpoint of the teacher's architecture and dtype with the smaller intermediate_size, and the tokenizer files. Streams by
/// rows: memory does not grow with the model. Throws FormatError when a tensor or statistic is missing or has another shape than
/// the configuration gives it, MismatchError when the statistics belong to another model.
StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs);

/// Number of neurons that the fraction `keep` of `neurons` gives: the nearest multiple of 32, at least 32, at most all; all for 1.
int64_t kept_neurons(int64_t neurons, double keep);

/// The `count` neurons with the largest importance, in ascending order; of equal ones the first. Importance must be finite.
std::vector<int64_t> most_important(std::span<const float> importance, int64_t count);

}  // namespace overproof
