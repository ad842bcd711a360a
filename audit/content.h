#pragma once
// Compares what an artifact's files record about its ancestors with its statement.

#include <string>
#include <vector>

#include "provenance/corpus_proof.h"
#include "provenance/run_folder.h"

namespace overproof {

struct ContentCheck {
  std::vector<Fault> faults;
  std::vector<std::string> notes;  ///< what could not be checked, and what it would need
};

/// Faults between statement and content, of the node and of what it must have been made from. Bad files are faults too.
/// `salt`: the secret of a private corpus, or nullptr.
ContentCheck check_content(const RunFolder& run, const ArtifactNode& node, const CorpusSalt* salt);

}  // namespace overproof
