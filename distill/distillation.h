#pragma once
// The training of `distill`, built from its inputs and configuration.

#include "distill/distill_stage.h"
#include "distill/held_out.h"
#include "distill/training.h"

namespace overproof {

struct Distillation {
  Training training;
  int64_t taught_windows;  ///< windows that the soft targets cover
  std::unique_ptr<HeldOutLoss> held_out;  ///< null without evaluate-every
};

/// The student of the slot "student" on the soft targets of "targets", in the order that they commit to, mixed with the outputs of
/// "teacher" if that is given. Throws MismatchError when
/// targets, corpus and student do not belong together, UsageError.
Distillation make_distillation(const DistillConfig& config, const Inputs& inputs);

/// The soft targets of the slot "targets". Throws MismatchError when they are not of this corpus, in its order.
std::shared_ptr<const SoftTargets> open_targets(const Corpus& corpus, const Inputs& inputs);

/// Losses and weights of a configuration: `loss`, or the default by `ce-weight`.
LossTerms loss_terms(const DistillConfig& config);

}  // namespace overproof
