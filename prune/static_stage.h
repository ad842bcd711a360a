#pragma once
// The `prune` stage, method static: keeps the FFN neurons that are most active on average and drops the rest. No routing:
// this is the plain baseline that a sparse student of the same FFN width has to beat.
//
// Neuron j of a gated FFN is row j of gate_proj and up_proj and column j of down_proj; dropping it drops its term from
//   down(silu(gate x) * (up x)) = sum_j down[:, j] silu(gate_j . x) (up_j . x).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct PruneConfig {
  std::string method = "static";
  double keep = 0.25;
  std::string drop_source;
  double threshold = 0.5;
  std::string uneven = "empty";

  template <class V>
  void visit(V&& v) {
    v("method", method, one_of({"static"}), "how neurons are chosen; static: the most important of each layer, for all tokens");
    v("keep", keep, in_range(0.001, 1.0), "fraction of FFN neurons kept in each layer, rounded to a multiple of 32 neurons");
    v("drop-source", drop_source, any_value(),
      "instead of neurons, remove the student's experts that this source of the corpus shaped most");
    v("threshold", threshold, in_range(0, 1),
      "with drop-source: an expert goes when more than this share of its tokens came from the source");
    v("uneven", uneven, one_of({"empty", "rank"}),
      "with drop-source, where layers lose different numbers; empty: places of zeros that no token is sent to; rank: each loses "
      "as many");
  }
};

/// With drop_source: run_drop_source (prune/drop_source.h). Else slots "teacher" (a dense checkpoint) and "statistics"
/// (statistics.safetensors with "layers.{l}.importance" F32 [ff]). Writes a dense checkpoint of the teacher's type in f32 with
/// the smaller intermediate_size, and the tokenizer files. Streams by rows: memory does not grow with the model.
StageReport run_prune(const PruneConfig& config, const Inputs& inputs, Outputs& outputs);

/// How many of `neurons` a fraction keeps: the nearest multiple of 32, at least 32, at most all; all when keep is 1.
int64_t kept_neurons(int64_t neurons, double keep);

/// The `count` neurons of largest importance, ascending; of equals the earlier. Importance must be finite.
std::vector<int64_t> most_important(std::span<const float> importance, int64_t count);

}  // namespace overproof
