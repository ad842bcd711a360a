#pragma once
// Stage "observe": runs the teacher over a sample of training windows and records statistics of its FFN layers
// (records/ffn_statistics.h).

#include "core/config.h"
#include "core/stage.h"
#include "model/compute.h"

namespace overproof {

struct ObserveConfig {
  int64_t tokens = 4096;
  int64_t batch_size = 4;
  int64_t seed = 0;
  Compute compute = Compute::automatic;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, in_range(1, 1 << 24), "training tokens to observe, rounded up to whole windows");
    v("batch-size", batch_size, in_range(1, 4096), "windows run through the teacher at once");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the observed windows");
    visit_compute(v, compute);
  }
};

/// Slots: teacher (a dense checkpoint), corpus. Only windows of the training split are used. Throws MismatchError when teacher and
/// corpus have different tokenizers.
StageReport run_observe(const ObserveConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
