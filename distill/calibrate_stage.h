#pragma once
// Stage "calibrate": sets how many routed experts a token uses, from the fraction of FFN neurons that the user asks for, then
// tunes the router's gate and bias and the norms to it by KL from the teacher, stored or run alongside. Other weights do not change.

#include "core/stage.h"
#include "distill/train_options.h"

namespace overproof {

struct CalibrateConfig {
  double target_activation = 0.25, target_kl = 0, target_speed = 0;
  int64_t top_k = 0, min_tokens = 0;
  bool curve = false;
  TrainOptions training{
      .steps = 20, .learning_rate = 2e-4, .router_lr_scale = 0.5, .balance_rate = 1e-4, .train = {"router", "norms"}};
  int64_t held_out_windows = 8;
  int64_t seed = 0;
  template <class V>
  void visit(V&& v) {
    v("target-activation", target_activation, in_range(0.001, 1),
      "fraction of the FFN neurons that a token uses; sets the nearest top-k, the same in every layer");
    v("target-kl", target_kl, at_least(0),
      "instead: the least number of experts whose held-out KL before tuning is at most this, in nats a token; 0: not used");
    v("target-speed", target_speed, at_least(0),
      "instead: the largest number of experts with which one sequence is written at this many tokens a second here; 0: not used");
    v("top-k", top_k, in_range(0, 1e6), "instead: this number of routed experts a token; 0: not used");
    v("curve", curve, any_value(), "measure the held-out KL for several numbers of experts, before tuning: curve.json and curve.svg, with the knee marked");
    v("min-tokens-per-expert", min_tokens, in_range(0, 1e12),
      "experts that get fewer tokens in the tuning are named, or without steps on the held-out windows; 0: not checked");
    v("steps", training.steps, in_range(0, 1e6), "steps of tuning; 0: only set top-k");
    training.visit(v);
    v("held-out-windows", held_out_windows, in_range(1, 1e6), "held-out windows on which the KL is measured before and after");
    v("seed", seed, seed_value(), "chooses the windows");
  }
};

/// Slots: student (a mixture of experts), teacher, corpus; targets, optional: soft targets of this teacher on this corpus, on which the
/// router is tuned instead of on the teacher run alongside, which then only measures held-out windows; original, optional: the student before it was
/// quantized, to report how far both choose the same experts. A student in 8 bits is tuned with its rounded weights. Writes the calibrated checkpoint, steps.jsonl, steps.safetensors and
/// the router counts, with those of the tuning unless it was undone (records/router_counts.h). When the held-out KL is higher
/// after tuning than before, the untuned weights are written and the summary reports it. With `curve` also curve.json and curve.svg
/// (distill/activation_curve.h). Throws QualityError when no number of experts holds the target, UsageError for two targets.
StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs);

/// The top-k in [1, experts] whose share of neurons, (top_k + shared) / (experts + shared), is nearest to `target`.
int64_t top_k_for_activation(double target, int64_t experts, int64_t shared);

}  // namespace overproof
