#pragma once
// The check before `export`, or a `quantize` to GGUF, runs: the policy of audit/policy.h, applied to everything that the model was made from. The ancestors
// are read from the model's run folder (provenance/run_folder.h); a missing ancestor is an open item of the policy.

#include "core/json_fwd.h"

namespace overproof {

struct StageRequest;

/// Returns the items that were judged, for the metrics of the signed statement. Throws ProvenanceError that lists the open items and
/// how to resolve them.
Json check_export_policy(const StageRequest& request);

/// The same for a `quantize` whose scheme writes GGUF: one program gives one answer. Null for other schemes.
Json check_quantize_policy(const StageRequest& request);

}  // namespace overproof
