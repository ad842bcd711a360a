#pragma once
// Removes FFN neurons from a dense checkpoint: the part that all methods of choosing them share. Neuron j of a gated FFN is row j of
// gate_proj and up_proj and column j of down_proj; removing it removes its term from
//   down(silu(gate x) * (up x)) = sum_j down[:, j] silu(gate_j . x) (up_j . x).

#include <cstdint>
#include <span>
#include <vector>

#include "core/stage.h"
#include "formats/head_tying.h"
#include "formats/weight_dtype.h"

namespace overproof {

/// The FFN layers of a dense checkpoint, by its configuration.
struct DenseFfn {
  int64_t layers = 0, hidden_size = 0, neurons = 0;
};
/// Throws FormatError when a number is missing or not positive.
DenseFfn read_dense_ffn(const Checkpoint& model);

/// Number of neurons that the fraction `keep` of `neurons` gives: the nearest multiple of 32, at least 32, at most all; all for 1.
int64_t kept_neurons(int64_t neurons, double keep);

/// The `count` neurons with the largest score, in ascending order; of equal ones the first. Scores must be finite.
std::vector<int64_t> highest_scores(std::span<const float> scores, int64_t count);

/// Number type and head of the model that is written.
struct CutOptions {
  WeightDType dtype = WeightDType::automatic;
  Tie tie = Tie::automatic;
  template <class V>
  void visit(V&& v) {
    visit_weight_dtype(v, dtype);
    visit_tie(v, tie);
  }
};

/// Writes `model` with the neurons picked[layer], as many in each layer, and its tokenizer files; `bias`: what is added to the output of each
/// layer's FFN, [layers][hidden], or empty. Adds to `report` which number type
/// and head it has. Streams by rows: memory does not grow with the model. Throws FormatError when a tensor of an FFN is missing, is
/// none of a dense gated FFN, or has another shape than the configuration gives it; MismatchError and DivergenceError as
/// formats/head_tying.h and weight_dtype.h.
void write_with_neurons(const Checkpoint& model, const std::vector<std::vector<int64_t>>& picked, const std::vector<std::vector<float>>& bias,
                        const CutOptions& options, OutputFolder& folder, StageReport& report);

}  // namespace overproof
