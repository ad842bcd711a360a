#pragma once
// Stage "shrink": a smaller dense model of the same architecture, made of the parts of its parent that matter most on a corpus: layers, neurons,
// attention heads by KV group, dimensions of the residual stream (student/shrink.h has the criteria).

#include "core/config.h"
#include "core/stage.h"
#include "formats/head_tying.h"
#include "formats/weight_dtype.h"
#include "model/compute.h"

namespace overproof {

struct ShrinkConfig {
  int64_t layers = 0, intermediate_size = 0, kv_heads = 0, hidden_size = 0;
  int64_t tokens = 16384, batch_size = 4, seed = 0;
  WeightDType dtype = WeightDType::automatic;
  Tie tie = Tie::automatic;
  Compute compute = Compute::automatic;
  template <class V>
  void visit(V&& v) {
    v("layers", layers, in_range(0, 4096), "layers to keep, by their influence on the residual stream; 0: all");
    v("intermediate-size", intermediate_size, in_range(0, 1 << 20), "FFN neurons to keep in each layer; 0: all");
    v("kv-heads", kv_heads, in_range(0, 4096), "key and value heads to keep in each layer, with their query heads; 0: all");
    v("hidden-size", hidden_size, in_range(0, 1 << 20), "dimensions of the residual stream to keep; 0: all");
    v("tokens", tokens, in_range(1, 1 << 30), "training tokens on which the parts are measured, rounded up to whole windows");
    v("batch-size", batch_size, in_range(1, 4096), "windows run at once");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the windows");
    visit_weight_dtype(v, dtype);
    visit_tie(v, tie);
    visit_compute(v, compute);
  }
};

/// Slots: teacher (dense), corpus. Writes a checkpoint of the teacher's architecture with its tokenizer, and shrinking.json: what was measured and
/// kept. Throws UsageError when more is to be kept than there is, MismatchError for a mixture of experts or another tokenizer.
StageReport run_shrink(const ShrinkConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
