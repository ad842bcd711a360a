#pragma once
// What an artifact's files say about its ancestors, held against what its statement says.

#include <vector>

#include "provenance/run_folder.h"

namespace overproof {

/// Faults between statement and content, for the kinds whose files name roots. Bad files are faults too.
std::vector<Fault> check_content(const ArtifactNode& node);

}  // namespace overproof
