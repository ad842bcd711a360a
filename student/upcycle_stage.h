#pragma once
// Stage "upcycle": a mixture of experts with more weights than its dense parent, and as many active ones: each FFN becomes copies, or parts of copies.

#include "core/config.h"
#include "core/stage.h"
#include "formats/head_tying.h"
#include "formats/weight_dtype.h"

namespace overproof {

struct UpcycleConfig {
  int64_t copies = 8, split = 1, top_k = 0;
  double drop = 0, router_deviation = 0.02;
  int64_t seed = 0;
  int64_t certificate_tokens = 512;
  WeightDType dtype = WeightDType::automatic;
  Tie tie = Tie::automatic;
  template <class V>
  void visit(V&& v) {
    v("copies", copies, in_range(1, 4096), "copies of each FFN");
    v("split", split, in_range(1, 4096), "parts of equal width that each copy is cut into, each an expert; divides the parent's FFN width");
    v("top-k", top_k, in_range(0, 4096), "experts a token uses; 0: split, as many weights as the parent uses");
    v("drop", drop, in_range(0, 1),
      "Drop-Upcycling: share of each expert's neurons whose weights are drawn anew, with mean and deviation of those that they replace");
    v("router-deviation", router_deviation, in_range(1e-6, 1), "standard deviation of the router's weights");
    v("seed", seed, in_range(0, 9007199254740991.0), "of the router's weights and of what is drawn anew");
    v("certificate-tokens", certificate_tokens, in_range(1, 1 << 20),
      "tokens, drawn at random, on which the certificate compares the logits where the method is exact");
    visit_weight_dtype(v, dtype);
    visit_tie(v, tie);
  }
};

/// Slot: teacher (dense). Writes a glm4_moe checkpoint with its tokenizer and, where the method is exact (drop 0, top-k a multiple of split),
/// certificate.json: the student as it is written has the parent's logits. Memory: parent and student in f32.
/// Throws UsageError, MismatchError for a parent that glm4_moe cannot express, DivergenceError when the certificate does not hold.
StageReport run_upcycle(const UpcycleConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
