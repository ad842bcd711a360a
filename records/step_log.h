#pragma once
// steps.jsonl: the numbers of a training's steps for readers of text, one JSON object a line, in the order of steps. It has no
// digests; records/step_records.h has the same numbers chained.
//
//   {"step":0, "loss":2.5, "terms":{"forward-kl":2.5}, "lr":1e-3, "grad_norm":1.0, "sequences":8, "tokens":512, "weight":512.0,
//    "balance":1.1}                                                                                  (keys sorted, no spaces)
// Version 1 has no "terms", "sequences" and "weight", but "kl" and "ce": the terms forward-kl and cross-entropy.

#include <string>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"
#include "records/step_records.h"

namespace overproof {

inline constexpr const char* kStepLogFile = "steps.jsonl";

/// The line of a record, without its line end.
Json step_log_line(const StepFormat& format, const StepRecord& record);

/// Numbers over steps, one value a line of the log, NaN where a line has none.
struct StepSeries {
  std::string name;  ///< "loss", "balance" or a loss term
  std::vector<double> values;
};
struct StepCurves {
  std::vector<StepSeries> losses;  ///< "loss" first, then the terms in the order of the first line that has them
  StepSeries balance{"balance", {}};
};

/// Reads a log, `text` being all of it. Throws FormatError naming `origin` when a line is not such an object, or has more loss terms
/// than a record can have.
StepCurves parse_step_log(std::string_view text, const fs::path& origin);

}  // namespace overproof
