#pragma once
// What `export` must pass before it runs: the policy of audit/policy.h, over everything that the model was made from. The graph
// of ancestors is found beside the model (provenance/run_folder.h); where it is not there, nothing can be judged, and that is
// said.

#include "core/json_fwd.h"

namespace overproof {

struct StageRequest;

/// Returns what was judged, for the metrics of the signed statement. Throws ProvenanceError listing what is open, and how to go
/// on.
Json check_export_policy(const StageRequest& request);

}  // namespace overproof
