#pragma once
// What `calibrate` chose by a measurement, for audits that make it again.

#include "core/json.h"

namespace overproof {

/// `options` and `metrics` of the statement of a calibrated model. A speed that was measured on one machine is another on the next, and a KL need not be searched
/// for twice: the number of experts that was chosen then is in the metrics, and becomes option "top-k".
inline void use_recorded_choice(Json& options, const Json& metrics) {
  const auto given = [&](const char* name) { return options.contains(name) && options[name].is_number() && options[name] > 0; };
  if (!given("top-k") && (given("target-speed") || given("target-kl")) && metrics.contains("top_k")) options["top-k"] = metrics["top_k"];
}

}  // namespace overproof
