#include "audit/content.h"

#include <fmt/format.h>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

/// Soft targets carry the roots of teacher and corpus in their own metadata (teacher/soft_targets.h), an index that of its corpus
/// (data/span_index.h).
void check_roots(const ArtifactNode& node, const char* name, std::vector<Fault>& faults) {
  const SafetensorsFile file(node.path / name);
  for (const auto& [key, slot] : {std::pair{"teacher_root", "teacher"}, std::pair{"corpus_root", "corpus"}}) {
    const auto said = file.metadata().find(key);
    const auto input = node.lineage()->inputs.find(slot);
    if (said == file.metadata().end() || input == node.lineage()->inputs.end()) continue;
    if (said->second != input->second.root.hex())
      faults.push_back({name, fmt::format("was made with {} sha256:{}, but the statement says sha256:{}", slot,
                                              said->second.substr(0, 64), input->second.root.hex()),
                        "one of the two is false: make it again"});
  }
}

}  // namespace

std::vector<Fault> check_content(const ArtifactNode& node) {
  std::vector<Fault> faults;
  try {
    if (node.lineage()->kind == "taught") check_roots(node, "targets.safetensors", faults);
    if (node.lineage()->kind == "indexed") check_roots(node, "documents.safetensors", faults);
  } catch (const FormatError& e) {
    faults.push_back({"", e.what(), "make it again"});
  }
  return faults;
}

}  // namespace overproof
