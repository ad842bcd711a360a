#pragma once
// Every stage is a verb: its slots become options that take a folder, and --out says where the artifact shall stand.

#include <vector>

#include "cli/verb.h"

namespace overproof {

/// One verb for each stage of the registry.
std::vector<VerbSpec> stage_verbs();

/// audit verify, trace, report, ...
std::vector<VerbSpec> audit_verbs();

/// What else is no stage: inspect, tokenizer, generate, logits, gpu.
std::vector<VerbSpec> tool_verbs();

}  // namespace overproof
