#pragma once
// The check before `export` runs: the policy of audit/policy.h, applied to everything that the model was made from. The ancestors
// are read from the model's run folder (provenance/run_folder.h); a missing ancestor is an open item of the policy.

#include "core/json_fwd.h"

namespace overproof {

struct StageRequest;

/// Returns the items that were judged, for the metrics of the signed statement. Throws ProvenanceError that lists the open items and
/// how to resolve them.
Json check_export_policy(const StageRequest& request);

}  // namespace overproof
