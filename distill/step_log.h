#pragma once
// What a stage records of the steps that it made.

#include <optional>
#include <string>

#include "core/file.h"
#include "core/json_fwd.h"
#include "distill/held_out.h"
#include "records/step_records.h"

namespace overproof {

struct StepLog {
  std::string lines;                   ///< steps.jsonl
  std::optional<StepRecords> records;  ///< steps.safetensors; none when digests are off
  HeldOutTrack held_out;
};

/// Writes steps.jsonl and, when there are records, steps.safetensors; adds "step_chain", "digest_every" and "segments" to the
/// metrics, and where there were evaluations "held_out": their number, the best value and its step.
void write_step_log(const StepLog& log, OutputFolder& folder, Json& metrics);

}  // namespace overproof
