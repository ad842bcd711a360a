#pragma once
// Stage "prune-neurons": keeps the FFN neurons with the largest mean activity in each layer and removes the others. There is no
// routing: this is the baseline that a sparse student with the same number of active neurons has to beat. prune/ffn_cut.h removes
// them.

#include "core/config.h"
#include "core/stage.h"
#include "prune/ffn_cut.h"

namespace overproof {

struct PruneNeuronsConfig {
  double keep = 0.25;
  CutOptions written;
  template <class V>
  void visit(V&& v) {
    v("keep", keep, in_range(0.001, 1.0), "fraction of FFN neurons to keep in each layer, rounded to a multiple of 32 neurons");
    written.visit(v);
  }
};

/// Slots "teacher" (a dense checkpoint) and "statistics" (statistics.safetensors with "layers.{l}.importance" F32 [ff]). Writes a
/// dense checkpoint of the teacher's architecture and dtype with the smaller intermediate_size, and the tokenizer files. Throws FormatError when a tensor or statistic is missing or has another shape than
/// the configuration gives it, MismatchError when the statistics belong to another model.
StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
