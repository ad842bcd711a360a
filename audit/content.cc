#include "audit/content.h"

#include <fmt/format.h>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

constexpr const char* kTargets = "targets.safetensors";

/// Soft targets carry the roots of teacher and corpus in their own metadata (teacher/soft_targets.h).
void check_soft_targets(const ArtifactNode& node, std::vector<Fault>& faults) {
  const SafetensorsFile file(node.path / kTargets);
  for (const auto& [key, slot] : {std::pair{"teacher_root", "teacher"}, std::pair{"corpus_root", "corpus"}}) {
    const auto said = file.metadata().find(key);
    const auto input = node.lineage()->inputs.find(slot);
    if (said == file.metadata().end() || input == node.lineage()->inputs.end()) continue;
    if (said->second != input->second.root.hex())
      faults.push_back({kTargets, fmt::format("was made with {} sha256:{}, but the statement says sha256:{}", slot,
                                              said->second.substr(0, 64), input->second.root.hex()),
                        "one of the two is false: make it again"});
  }
}

}  // namespace

std::vector<Fault> check_content(const ArtifactNode& node) {
  std::vector<Fault> faults;
  try {
    if (node.lineage()->kind == "taught") check_soft_targets(node, faults);
  } catch (const FormatError& e) {
    faults.push_back({"", e.what(), "make it again"});
  }
  return faults;
}

}  // namespace overproof
