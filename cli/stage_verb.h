#pragma once
// The groups of verbs. Every stage is a verb: its slots become options that take a folder, and --out is the new artifact's folder.

#include <vector>

#include "cli/verb.h"

namespace overproof {

/// One verb for each stage of the registry.
std::vector<VerbSpec> stage_verbs();

/// audit verify, trace, report, ...
std::vector<VerbSpec> audit_verbs();

/// The other verbs that are no stages: inspect, tokenizer, generate, logits, gpu, keys.
std::vector<VerbSpec> tool_verbs();

}  // namespace overproof
