#pragma once
// Stage "distill": trains a student on a teacher's soft targets. The result depends only on inputs and configuration: a run that
// was killed and started again ends with the same bytes.

#include "core/stage.h"
#include "distill/train_options.h"

namespace overproof {

struct DistillConfig {
  TrainOptions training{.steps = 0, .learning_rate = 1e-3, .router_lr_scale = 0.1, .warmup = 10, .balance_rate = 1e-4};
  StringMap loss;  ///< empty: forward-kl=1-ce_weight,cross-entropy=ce_weight
  double ce_weight = 0.0, teacher_share = 0.5;
  int64_t checkpoint_every = 50;
  template <class V>
  void visit(V&& v) {
    v("steps", training.steps, in_range(0, 1e9), "steps of training; 0: one pass over the soft targets");
    training.visit(v);
    training.visit_optimizer(v);
    v("loss", loss, any_value(),
      "losses and their weights, such as forward-kl=0.9,cross-entropy=0.1, of forward-kl, cross-entropy, reverse-kl, "
      "jensen-shannon (jensen-shannon:0.1=1 for another share than 0.5 of the teacher in the middle) and total-variation; the last "
      "three need top-k targets or --teacher; default: forward-kl and cross-entropy by ce-weight");
    v("ce-weight", ce_weight, in_range(0, 1),
      "weight of the cross-entropy with the corpus in the default loss; 1 - ce-weight is that of the KL from the teacher");
    v("teacher-share", teacher_share, in_range(0, 1),
      "with --teacher: its share of the probabilities that the student learns; 1 - teacher-share is that of the soft targets");
    v("checkpoint-every", checkpoint_every, in_range(0, 1e9),
      "steps between checkpoints from which a killed run resumes; 0: none");
  }
};

/// Slots: student (any decoder, dense or mixture), targets (soft targets; they also fix the order of windows), corpus, and maybe
/// teacher (a decoder that runs alongside, mixed with the targets). Writes a checkpoint, steps.jsonl with one
/// StepRecord a line, steps.safetensors (records/step_records.h) and, for a mixture of experts, the router counts
/// (records/router_counts.h). Throws MismatchError when targets, corpus and student do not belong together.
StageReport run_distill(const DistillConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
