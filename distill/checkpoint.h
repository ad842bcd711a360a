#pragma once
// A training's state on disk. One safetensors file in the stage's scratch folder is replaced as a whole, so that a kill at any
// moment leaves the last complete one. States that are kept for auditors stand beside the artifacts, in `checkpoints/`, each
// named after the digests that its step record has of it: it is found by digest, and what is read is digested again before it is
// used.

#include <string>

#include "distill/training_run.h"

namespace overproof {

/// Writes trainer.state() and the log so far. `run` names what is being trained (inputs and configuration); a checkpoint
/// of another run is never resumed.
void save_checkpoint(const fs::path& scratch, const Trainer& trainer, const StepLog& log, const std::string& run);

/// Copies the last checkpoint's values into the trainer and its log into `log`; false when there is none of this run.
/// Throws FormatError when the file is not what the trainer needs.
bool resume_checkpoint(const fs::path& scratch, Trainer& trainer, StepLog& log, const std::string& run);

/// The file of a kept state: "<SHA-256 of both digests>.safetensors".
std::string kept_state_name(const Digest& weights, const Digest& optimizer);

/// Writes the state under its name; what is there already is the same and stays.
void keep_state(const fs::path& folder, const Trainer& trainer, const Digest& weights, const Digest& optimizer);

/// Copies a kept state into the trainer, which then has done `steps_done` steps. False when there is none, or it does not have
/// these digests: then the trainer's state is undefined, and `fault` says why when there was one.
bool load_kept_state(const fs::path& folder, Trainer& trainer, StateDigester& digester, const Digest& weights,
                     const Digest& optimizer, int64_t steps_done, std::string& fault);

}  // namespace overproof
