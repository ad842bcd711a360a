#pragma once
// calibrate: sets how many routed experts a token uses, from the fraction of FFN neurons the user can afford, then tunes
// the router's gate and bias and the norms to it by KL against the teacher, which is run alongside. Everything else stays.

#include <ATen/core/Tensor.h>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct CalibrateConfig {
  double target_activation = 0.25;
  int64_t steps = 20, batch_size = 4, micro_batch = 2;
  double learning_rate = 2e-4, router_lr_scale = 0.5, balance_rate = 1e-4, clip = 1.0;
  std::string train = "router,norms";
  int64_t held_out_windows = 8;
  std::string dtype = "f32";
  int64_t digest_every = -1;
  int64_t seed = 0;
  template <class V>
  void visit(V&& v) {
    v("target-activation", target_activation, in_range(0.001, 1), "fraction of the FFN neurons a token may use; the nearest top-k is taken");
    v("steps", steps, in_range(0, 1e6), "steps of tuning; 0 only sets top-k");
    v("batch-size", batch_size, in_range(1, 65536), "windows a step");
    v("micro-batch", micro_batch, in_range(1, 65536), "windows in memory at a time");
    v("learning-rate", learning_rate, in_range(1e-9, 10), "learning rate of AdamW, falling to zero");
    v("router-lr-scale", router_lr_scale, in_range(0, 1000), "the router's learning rate over that of the norms");
    v("balance-rate", balance_rate, in_range(0, 1), "change of the router's balancing bias a step towards even expert loads");
    v("clip", clip, in_range(0, 1e9), "largest global gradient norm; 0: not clipped");
    v("train", train, any_value(), "weights to tune, a list of router, norms, attention, experts, embeddings, head");
    v("held-out-windows", held_out_windows, in_range(1, 1e6), "held-out windows on which before and after are compared");
    v("digest-every", digest_every, in_range(-1, 1e9),
      "steps between digests of weights and optimizer in steps.safetensors; -1: as many as cost about a hundredth; 0: no step records");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the windows");
    v("dtype", dtype, one_of({"f32", "bf16"}), "of the weights that are written; routers stay f32");
  }
};

/// Slots: student (a mixture of experts), teacher, corpus. Writes the calibrated checkpoint, steps.jsonl, steps.safetensors and the router
/// counts, those of tuning that was kept included (data/router_counts.h). When the held-out KL is worse after tuning than before it, the
/// untuned weights are kept and the report says so.
StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs);

/// The top-k in [1, experts] whose share of neurons, (top_k + shared) / (experts + shared), is nearest to `target`.
int64_t top_k_for_activation(double target, int64_t experts, int64_t shared);

/// Mean over tokens of |A and B| / |A or B| for two choices I32 [tokens, k] of ascending ids.
double routing_overlap(const at::Tensor& a, const at::Tensor& b);

}  // namespace overproof
