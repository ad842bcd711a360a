#pragma once
// The options of training that distill and calibrate share.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "model/compute.h"
#include "formats/weight_dtype.h"

namespace overproof {

/// Learning rate after the warm-up: cosine or linear to zero, constant, or constant and then linear to zero (warm-up, stable, decay;
/// Hu et al. 2024, "MiniCPM", section 4).
enum class Schedule { cosine, linear, constant, wsd };

/// Low-rank adapters (model/adapters.h).
struct LoraOptions {
  int64_t rank = 0;
  double alpha = 16;
  StringList targets = {"q", "k", "v", "o", "gate", "up", "down"};
  template <class V>
  void visit(V&& v) {
    v("lora-rank", rank, in_range(0, 4096),
      "train low-rank adapters of this rank (LoRA) and nothing else: train is not read, balance-rate is 0. They are merged into the weights, and "
      "written to adapter/ in the layout of PEFT as well. 0: train the weights");
    v("lora-alpha", alpha, in_range(1e-3, 1e6), "LoRA: scale of the adapters times the rank");
    v("lora-targets", targets, one_of({"q", "k", "v", "o", "gate", "up", "down"}),
      "LoRA: which projections get adapters, of the attention and of the FFN; in a mixture of experts those of the attention only");
  }
};

struct TrainOptions {
  int64_t steps = 1, batch_size = 4, micro_batch = 2;
  double learning_rate = 1e-3, router_lr_scale = 1.0;
  int64_t warmup = 0;
  Schedule schedule = Schedule::cosine;
  double decay_share = 0.2;   ///< of the steps, the last of a wsd schedule
  double ema = 0.0;           ///< decay of the average of the weights, which is published instead of them; 0: none
  double weight_decay = 0.0;  ///< of matrices; never of norms, biases and routers
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double clip = 1.0;          ///< largest global gradient norm; 0: no clipping
  double balance_rate = 0.0;  ///< step of the router bias a step, towards even loads
  StringList train = {"ffn", "router", "norms", "attention"};  ///< groups, see trained_group()
  int64_t digest_every = -1, keep_every = 0;
  Compute compute = Compute::automatic;
  WeightDType dtype = WeightDType::automatic;
  double repetition_penalty = 0.0;  ///< for generation_config.json; 0: that of the student

  /// The options of both stages, without `steps`, whose meaning differs.
  template <class V>
  void visit(V&& v) {
    v("batch-size", batch_size, in_range(1, 65536), "windows a step");
    v("micro-batch", micro_batch, in_range(1, 65536),
      "windows in memory at a time; bounds the memory, recorded because sums are ordered by it");
    v("learning-rate", learning_rate, in_range(1e-9, 10), "largest learning rate of AdamW");
    v("router-lr-scale", router_lr_scale, in_range(0, 1000), "the router's learning rate over that of the rest");
    v("balance-rate", balance_rate, in_range(0, 1), "change of the router's balancing bias a step towards even expert loads");
    v("clip", clip, in_range(0, 1e9), "largest global gradient norm; 0: not clipped");
    v("train", train, one_of({"all", "ffn", "experts", "router", "norms", "attention", "embeddings", "head"}),
      "weights to train, comma-separated: ffn (every FFN weight), experts (routed and shared experts; of a dense model its FFN), "
      "router, norms, attention, embeddings, head, or all");
    v("digest-every", digest_every, in_range(-1, 1e9),
      "steps between digests of weights and optimizer in steps.safetensors; -1: an interval that costs about 1 % of the time; 0: "
      "no step records");
    v("keep-every", keep_every, in_range(0, 1e9),
      "steps between states kept in checkpoints/ next to the artifact, from which an auditor replays; 0: none");
    v("repetition-penalty", repetition_penalty, in_range(0, 100),
      "what generation_config.json of the result, and a GGUF made of it, ask of loaders: those that obey it, as transformers does, divide the logits of "
      "tokens that the text already has. 1: nothing; 0: what the student's asks");
    visit_weight_dtype(v, dtype);
    visit_compute(v, compute);
  }
  /// Options of distill only.
  template <class V>
  void visit_optimizer(V&& v) {
    v("warmup", warmup, in_range(0, 1e9), "steps until the largest learning rate is reached");
    v("schedule", schedule,
      enum_of<Schedule>(
          {{"cosine", Schedule::cosine}, {"linear", Schedule::linear}, {"constant", Schedule::constant}, {"wsd", Schedule::wsd}}),
      "learning rate after the warm-up; cosine and linear go to zero, wsd is constant and then goes to zero in the last "
      "decay-share");
    v("decay-share", decay_share, in_range(0, 1),
      "of the steps, the last in which the learning rate of schedule wsd goes to zero");
    v("ema", ema, in_range(0, 0.999999),
      "decay of an exponential average of the trained weights, such as 0.999; the average is what is written. 0: the weights "
      "themselves");
    v("weight-decay", weight_decay, in_range(0, 1), "decay of matrices; norms, biases and routers have none");
    v("beta1", beta1, in_range(0, 0.9999), "AdamW's average of gradients");
    v("beta2", beta2, in_range(0, 0.99999), "AdamW's average of squared gradients");
    v("epsilon", epsilon, in_range(1e-15, 1), "AdamW's least denominator");
  }
};

}  // namespace overproof
