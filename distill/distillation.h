#pragma once
// The training of `distill`, built from its inputs and configuration.

#include "core/json_fwd.h"
#include "distill/distill_stage.h"
#include "distill/held_out.h"
#include "distill/training.h"

namespace overproof {

struct Distillation {
  Training training;
  int64_t taught_windows;  ///< windows that the soft targets cover
  std::unique_ptr<HeldOutLoss> held_out;  ///< null without evaluate-every
  bool measures_kl = false;               ///< held_out compares with a teacher
  std::shared_ptr<const Json> teacher_facts;  ///< Teachers::facts
};

/// The student of the slot "student" on what its teachers give (distill/teachers.h), in the order that the soft targets of "targets"
/// commit to. Throws MismatchError when targets, corpus and student do not belong together, UsageError.
Distillation make_distillation(const DistillConfig& config, const Inputs& inputs);

/// Losses and weights of a configuration: `loss`, or the default by `ce-weight`.
LossTerms loss_terms(const DistillConfig& config);

}  // namespace overproof
