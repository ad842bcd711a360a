#pragma once
// The engine's part of a resume point (records/resume.h): which items of the plan are complete, and digests of the input that
// they were made from. Options are bound by the point's stage key; input and output are digested again before a run resumes.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/digest.h"
#include "core/json_fwd.h"
#include "quantize/engine/plan.h"

namespace overproof {

/// Digest of the beginning of an input file.
struct InputMark {
  int file = 0;  ///< of TensorSource::files()
  int64_t bytes = 0;
  Digest digest;
};

struct Journal {
  size_t items = 0;               ///< of the plan, complete
  int64_t bytes = 0;              ///< of tensors in the output so far
  std::vector<RowError> errors;   ///< [items]
  std::vector<InputMark> inputs;  ///< at most one per file; they cover all bytes that the items were made from
};

/// Digest of the tensors, scheme names and outputs of a plan: which bytes an item takes in the output.
Digest layout_digest(const Plan& plan);

Json to_json(const Journal& journal, const Plan& plan);
/// Nothing when it is damaged, or of a plan with another layout.
std::optional<Journal> journal_from_json(const Json& json, const Plan& plan);

}  // namespace overproof
