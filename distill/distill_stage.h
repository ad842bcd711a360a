#pragma once
// distill: trains a student on a teacher's soft targets by forward KL mixed with cross-entropy. What it does depends only
// on inputs and configuration: a run that was killed and started again ends with the same bytes.

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct DistillConfig {
  int64_t steps = 0;
  int64_t batch_size = 4, micro_batch = 2;
  double learning_rate = 1e-3;
  int64_t warmup = 10;
  std::string schedule = "cosine";
  double weight_decay = 0.0, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, clip = 1.0;
  double ce_weight = 0.0;
  std::string train = "experts,router,norms,attention";
  double router_lr_scale = 0.1, balance_rate = 1e-4;
  int64_t checkpoint_every = 50;
  int64_t digest_every = -1, keep_every = 0;
  std::string dtype = "f32";
  template <class V>
  void visit(V&& v) {
    v("steps", steps, in_range(0, 1e9), "steps of training; 0: one pass over everything that was taught");
    v("batch-size", batch_size, in_range(1, 65536), "windows a step");
    v("micro-batch", micro_batch, in_range(1, 65536), "windows in memory at a time; bounds the memory, recorded because sums are ordered by it");
    v("learning-rate", learning_rate, in_range(1e-9, 10), "largest learning rate of AdamW");
    v("warmup", warmup, in_range(0, 1e9), "steps until the largest learning rate is reached");
    v("schedule", schedule, one_of({"cosine", "linear", "constant"}), "learning rate after the warm-up; cosine and linear go to zero");
    v("weight-decay", weight_decay, in_range(0, 1), "decay of matrices; norms, biases and routers have none");
    v("beta1", beta1, in_range(0, 0.9999), "AdamW's average of gradients");
    v("beta2", beta2, in_range(0, 0.99999), "AdamW's average of squared gradients");
    v("epsilon", epsilon, in_range(1e-15, 1), "AdamW's least denominator");
    v("clip", clip, in_range(0, 1e9), "largest global gradient norm; 0: not clipped");
    v("ce-weight", ce_weight, in_range(0, 1), "share of the cross-entropy with the corpus in the loss; the rest is KL to the teacher");
    v("train", train, any_value(), "weights to train, a list of experts, router, norms, attention, embeddings, head, or all");
    v("router-lr-scale", router_lr_scale, in_range(0, 1000), "the router's learning rate over that of the rest");
    v("balance-rate", balance_rate, in_range(0, 1), "change of the router's balancing bias a step towards even expert loads");
    v("checkpoint-every", checkpoint_every, in_range(0, 1e9), "steps between checkpoints that a killed run goes on from; 0: none");
    v("digest-every", digest_every, in_range(-1, 1e9),
      "steps between digests of weights and optimizer in steps.safetensors; -1: as many as cost about a hundredth; 0: no step records");
    v("keep-every", keep_every, in_range(0, 1e9), "steps between states kept in checkpoints/ beside the artifact, from which an auditor replays; 0: none");
    v("dtype", dtype, one_of({"f32", "bf16"}), "of the weights that are written; routers stay f32");
  }
};

/// Slots: student (any decoder, dense or mixture), targets (soft targets), corpus. Writes a checkpoint, steps.jsonl,
/// one StepRecord a line, steps.safetensors (data/step_records.h) and, of a mixture of experts, the router counts (data/router_counts.h).
/// Throws UsageError when targets, corpus and student do not belong together.
StageReport run_distill(const DistillConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
