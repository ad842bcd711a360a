#pragma once
// All steps of a training, with their records, checkpoints and kept states.

#include <string>

#include "core/stage.h"
#include "distill/held_out.h"
#include "distill/step_log.h"
#include "distill/training.h"

namespace overproof {

/// Member of a line of steps.jsonl: the mean reward of what the student wrote in the step, where verifiers judged it.
inline constexpr const char* kRewardName = "reward";

struct TrainingRecording {
  std::string label;             ///< of the progress bar
  int64_t digest_every = 0;      ///< steps between digests of the state; 0: no records at all
  int64_t checkpoint_every = 0;  ///< steps between checkpoints from which a killed run resumes; 0: none
  int64_t keep_every = 0;        ///< steps between states that are kept for auditors; 0: none
  const HeldOutLoss* held_out = nullptr;  ///< null: no evaluations
  int64_t evaluate_every = 0;             ///< steps between evaluations, >= 1 with held_out; the last step has one too
  int64_t patience = 0;                   ///< HeldOutTrack::patience
};

/// Makes all steps, or those until held-out losses end the training, and resumes from the last checkpoint of a killed run. The last
/// record is in `last`. Lines of steps with an evaluation have it as "held_out".
StepLog train_all(Training& training, const TrainingRecording& recording, const Outputs& outputs, StepRecord& last);

}  // namespace overproof
