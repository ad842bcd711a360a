#pragma once
// calibrate: sets how many routed experts a token uses, from the fraction of FFN neurons the user can afford, then tunes
// the router's gate and bias and the norms to it by KL against the teacher, which is run alongside. Everything else stays.

#include <ATen/core/Tensor.h>

#include "core/stage.h"
#include "distill/train_options.h"

namespace overproof {

struct CalibrateConfig {
  double target_activation = 0.25;
  TrainOptions training{
      .steps = 20, .learning_rate = 2e-4, .router_lr_scale = 0.5, .balance_rate = 1e-4, .train = "router,norms"};
  int64_t held_out_windows = 8;
  int64_t seed = 0;
  template <class V>
  void visit(V&& v) {
    v("target-activation", target_activation, in_range(0.001, 1),
      "fraction of the FFN neurons a token may use; the nearest top-k is taken");
    v("steps", training.steps, in_range(0, 1e6), "steps of tuning, whose learning rate falls to zero; 0 only sets top-k");
    training.visit(v);
    v("held-out-windows", held_out_windows, in_range(1, 1e6), "held-out windows on which before and after are compared");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the windows");
  }
};

/// Slots: student (a mixture of experts), teacher, corpus. Writes the calibrated checkpoint, steps.jsonl, steps.safetensors and
/// the router counts, those of tuning that was kept included (records/router_counts.h). When the held-out KL is worse after tuning
/// than before it, the untuned weights are kept and the report says so.
StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs);

/// The top-k in [1, experts] whose share of neurons, (top_k + shared) / (experts + shared), is nearest to `target`.
int64_t top_k_for_activation(double target, int64_t experts, int64_t shared);

/// Mean over tokens of |A and B| / |A or B| for two choices I32 [tokens, k] of ascending ids.
double routing_overlap(const at::Tensor& a, const at::Tensor& b);

}  // namespace overproof
