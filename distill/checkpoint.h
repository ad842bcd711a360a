#pragma once
// A training run's state on disk: one safetensors file in the stage's scratch folder, replaced as a whole, so that a
// kill at any moment leaves the last complete one.

#include <string>

#include "distill/trainer.h"

namespace overproof {

/// Writes trainer.state() and the log so far. `run` names what is being trained (inputs and configuration); a checkpoint
/// of another run is never resumed.
void save_checkpoint(const fs::path& scratch, const Trainer& trainer, const std::string& log, const std::string& run);

/// Copies the last checkpoint's values into the trainer and its log into `log`; false when there is none of this run.
/// Throws FormatError when the file is not what the trainer needs.
bool resume_checkpoint(const fs::path& scratch, Trainer& trainer, std::string& log, const std::string& run);

}  // namespace overproof
