#pragma once
// A training's state on disk. While it runs, the scratch folder has the last complete state and log, bound to the stage key
// (records/resume.h). States that are kept for auditors are in `checkpoints/` next to the artifacts, each named after the digests
// that its step record has: a state is found by digest, and what is read is digested again before it is used.

#include <string>

#include "core/digest.h"
#include "distill/state_digest.h"
#include "distill/step_log.h"
#include "distill/trainer.h"
#include "records/resume.h"

namespace overproof {

/// What a killed training resumes from: checkpoint-<steps>.safetensors with trainer.state(), "log" U8 (steps.jsonl so far) and
/// "records" U8 (StepRecords::bytes()).
class TrainingCheckpoint {
 public:
  TrainingCheckpoint(const fs::path& scratch, const Digest& stage_key) : resume_(scratch, stage_key), scratch_(scratch) {}
  /// Replaces the last state. Throws IoError.
  void write(const Trainer& trainer, const StepLog& log);
  /// Copies the last state of this stage key into the trainer and its log into `log`. False, and nothing copied, when there is none, or
  /// it is not one of this training of `steps` steps.
  bool read(int64_t steps, Trainer& trainer, StepLog& log);

 private:
  Resume resume_;
  fs::path scratch_;
};

/// The file of a kept state: "<SHA-256 of both digests>.safetensors".
std::string kept_state_name(const Digest& weights, const Digest& optimizer);

/// Writes the state under its name, unless that file exists already.
void keep_state(const fs::path& folder, const Trainer& trainer, const Digest& weights, const Digest& optimizer);

/// Copies a kept state into the trainer, which then has done `steps_done` steps. False when there is none, or it does not have
/// these digests: then the trainer's state is undefined, and `fault` gives the reason when a file was found.
bool load_kept_state(const fs::path& folder, Trainer& trainer, StateDigester& digester, const Digest& weights,
                     const Digest& optimizer, int64_t steps_done, std::string& fault);

}  // namespace overproof
