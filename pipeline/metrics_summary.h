#pragma once
// The signed metrics of an artifact as lines for people. The summary that a stage prints when it ends also has timings, which no
// statement holds; what is shown of a finished artifact is read from its statement alone.

#include <string>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

/// A table for measurements of models, else a line for each number or text, with the sizes of longer lists. Values are hostile:
/// lines are to be printed with printable().
std::vector<std::string> metrics_summary(const Json& metrics);

}  // namespace overproof
