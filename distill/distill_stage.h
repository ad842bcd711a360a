#pragma once
// Stage "distill": trains a student on a teacher's soft targets. The result depends only on inputs and configuration: a run that
// was killed and started again ends with the same bytes.

#include "core/stage.h"
#include "distill/on_policy.h"
#include "distill/train_options.h"

namespace overproof {

struct DistillConfig {
  TrainOptions training{.steps = 0, .learning_rate = 1e-3, .router_lr_scale = 0.1, .warmup = 10, .balance_rate = 1e-4};
  StringMap loss;  ///< empty: forward-kl=1-ce_weight,cross-entropy=ce_weight
  double ce_weight = 0.0, teacher_share = 0.5;
  OnPolicyOptions on_policy;
  LoraOptions lora;
  int64_t checkpoint_every = 50, evaluate_every = 0, evaluate_windows = 16, patience = 0;
  template <class V>
  void visit(V&& v) {
    v("steps", training.steps, in_range(0, 1e9), "steps of training; 0: one pass over the soft targets");
    training.visit(v);
    training.visit_optimizer(v);
    lora.visit(v);
    v("loss", loss, any_value(),
      "losses and their weights, such as forward-kl=0.9,cross-entropy=0.1; some have a number, as in jensen-shannon:0.1=1. On all "
      "targets: forward-kl, cross-entropy. On top-k targets or with --teacher and --teacher-share 1: reverse-kl, jensen-shannon:0.5, "
      "total-variation, skewed-kl:0.1, skewed-reverse-kl:0.1, entropy-gated:1 (nats), top-k-kl:32 (ids). Of the student's router: "
      "router-z, balance. With --teacher and --teacher-share 1: hidden-mse, hidden-cosine, ffn-mse. Of what the student draws with --on-policy: "
      "sampled-reverse-kl:1e-4, and with --tasks: reward. docs/distill.md has their formulas; default: forward-kl and cross-entropy by ce-weight");
    v("ce-weight", ce_weight, in_range(0, 1),
      "weight of the cross-entropy with the corpus in the default loss; 1 - ce-weight is that of the KL from the teacher");
    v("teacher-share", teacher_share, in_range(0, 1),
      "with --teacher: its share of the probabilities that the student learns; 1 - teacher-share is that of the soft targets");
    v("on-policy", on_policy.share, in_range(0, 1),
      "share of the steps in which the student continues the windows, or completes --tasks, and learns at what it wrote; needs --teacher and --teacher-share 1");
    v("on-policy-prompt", on_policy.prompt, in_range(1, 1 << 20), "least ids of a window before what the student writes");
    v("on-policy-tokens", on_policy.tokens, in_range(1, 1 << 20), "most ids that the student writes in a window");
    v("on-policy-temperature", on_policy.temperature, in_range(0, 20), "divides the student's logits in draws; 0: the most probable id");
    v("on-policy-group", on_policy.group, in_range(1, 65536),
      "with --tasks: completions of a task in a step, whose rewards are compared; divides batch-size");
    v("checkpoint-every", checkpoint_every, in_range(0, 1e9),
      "steps between checkpoints from which a killed run resumes; 0: none");
    v("evaluate-every", evaluate_every, in_range(0, 1e9),
      "steps between evaluations on held-out windows of the corpus: cross-entropy, and with --teacher the KL from it; 0: none");
    v("evaluate-windows", evaluate_windows, in_range(1, 1e6), "held-out windows of an evaluation");
    v("patience", patience, in_range(0, 1e9),
      "evaluations without a lower held-out KL (without --teacher: cross-entropy) after which the training stops; 0: never");
  }
};

/// Slots: student (any decoder, dense or mixture), targets (soft targets; they also fix the order of windows), corpus, and maybe
/// teacher (a decoder that runs alongside, mixed with the targets, and that evaluations compare with), tasks (a file of verify/task.h, which the student
/// completes in on-policy steps) and command (a program that judges tasks of the type `command`). Writes a checkpoint,
/// steps.jsonl with one StepRecord a line, steps.safetensors (records/step_records.h) and, for a mixture of experts, the router counts
/// (records/router_counts.h). Throws MismatchError when targets, corpus and student do not belong together.
StageReport run_distill(const DistillConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
