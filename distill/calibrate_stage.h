#pragma once
// Stage "calibrate": sets how many routed experts a token uses, from the fraction of FFN neurons that the user asks for, then
// tunes the router's gate and bias and the norms to it by KL from the teacher, stored or run alongside. Other weights do not change.

#include "core/stage.h"
#include "distill/train_options.h"

namespace overproof {

struct CalibrateConfig {
  double target_activation = 0.25;
  TrainOptions training{
      .steps = 20, .learning_rate = 2e-4, .router_lr_scale = 0.5, .balance_rate = 1e-4, .train = {"router", "norms"}};
  int64_t held_out_windows = 8;
  int64_t seed = 0;
  template <class V>
  void visit(V&& v) {
    v("target-activation", target_activation, in_range(0.001, 1),
      "fraction of the FFN neurons that a token uses; sets the nearest top-k");
    v("steps", training.steps, in_range(0, 1e6), "steps of tuning; 0: only set top-k");
    training.visit(v);
    v("held-out-windows", held_out_windows, in_range(1, 1e6), "held-out windows on which the KL is measured before and after");
    v("seed", seed, seed_value(), "chooses the windows");
  }
};

/// Slots: student (a mixture of experts), teacher, corpus; targets, optional: soft targets of this teacher on this corpus, on which the
/// router is tuned instead of on the teacher run alongside, which then only measures held-out windows. Writes the calibrated checkpoint, steps.jsonl, steps.safetensors and
/// the router counts, with those of the tuning unless it was undone (records/router_counts.h). When the held-out KL is higher
/// after tuning than before, the untuned weights are written and the summary reports it.
StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs);

/// The top-k in [1, experts] whose share of neurons, (top_k + shared) / (experts + shared), is nearest to `target`.
int64_t top_k_for_activation(double target, int64_t experts, int64_t shared);

}  // namespace overproof
