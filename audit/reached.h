#pragma once
// Which documents of a corpus a model's weights were made with, computed from the statements: no log is kept (audit/window_order.h).

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "provenance/run_folder.h"

namespace overproof {

/// The documents of a corpus, by recorded licence, of which at least one token was read by an artifact of `family` (indices in
/// `run.nodes`) that made weights with it: trainings and recoveries. Statistics and the teacher's outputs alone change no weight.
/// Licences without such a document are left out. Throws FormatError, and ProvenanceError where a statement does not record what
/// the order depends on.
std::map<std::string, int64_t> documents_reached(const RunFolder& run, const std::vector<int>& family, const ArtifactNode& corpus);

}  // namespace overproof
