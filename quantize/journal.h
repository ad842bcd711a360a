#pragma once
// What a killed run needs to go on: which tensors are complete, and digests of all that this rests on. The partial output
// stands beside it. Nothing in it is trusted: inputs and outputs are digested again before anything is gone on from.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/file.h"
#include "quantize/plan.h"

namespace overproof {

/// How far the digest of an input file had come.
struct InputMark {
  int file = 0;  ///< of TensorSource::files()
  int64_t bytes = 0;
  Digest digest;
};

struct Journal {
  Digest plan;                      ///< plan_digest(): a journal of another plan is none
  size_t items = 0;                 ///< of the plan, complete
  int64_t bytes = 0;                ///< of tensors in the output so far
  std::vector<RowError> errors;     ///< [items]
  std::vector<FileRecord> outputs;  ///< beginnings of the files, on the disk
  std::vector<InputMark> inputs;    ///< one a file that was begun; they cover all that the items were made from
};

/// Identity of what a plan makes: tensors, schemes, outputs.
Digest plan_digest(const Plan& plan);

/// Atomic: a kill leaves this one or the one before.
void write_journal(const fs::path& file, const Journal& journal);
/// Nothing when there is none, or when it is damaged or of another plan: then the run starts over.
std::optional<Journal> read_journal(const fs::path& file, const Plan& plan);

}  // namespace overproof
