#include "audit/content.h"

#include <fmt/format.h>

#include <charconv>

#include "audit/commitment_check.h"
#include "core/error.h"
#include "core/json.h"
#include "data/order.h"
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

/// The order of training is drawn from the corpus root, the seed and, where there is one, the beacon: nobody may have chosen it.
void check_order(const ArtifactNode& node, std::vector<Fault>& faults) {
  const SafetensorsFile file(node.path / kTargets);
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  const std::string seed_text = text("seed"), beacon = text("order_beacon"), key = text("order_key");
  const auto corpus = node.lineage()->inputs.find("corpus");
  if (corpus == node.lineage()->inputs.end() || key.empty()) return;
  const Json& config = node.lineage()->config;
  const auto said = [&](const char* option, const Json& otherwise) { return config.is_object() && config.contains(option) ? config[option] : otherwise; };
  int64_t seed = 0;
  const auto [end, error] = std::from_chars(seed_text.data(), seed_text.data() + seed_text.size(), seed);
  if (error != std::errc() || end != seed_text.data() + seed_text.size()) throw FormatError(file.path(), -1, "metadata: 'seed' is no whole number");
  if (said("seed", seed) != Json(seed) || said("order-beacon", beacon) != Json(beacon))
    faults.push_back({kTargets, "was made with another seed or order beacon than the statement says", "one of the two is false: make it again"});
  std::string expected;
  try {
    expected = order_key(corpus->second.root, seed, beacon).hex();
  } catch (const UsageError& e) {
    throw FormatError(file.path(), -1, e.what());
  }
  if (key != expected)
    faults.push_back({kTargets, fmt::format("trains in the order of key {}, but corpus, seed and beacon draw {}", key.substr(0, 64), expected),
                      "the order was chosen, not drawn: make it again"});
}

}  // namespace

ContentCheck check_content(const ArtifactNode& node, const CorpusSalt* salt) {
  ContentCheck check;
  try {
    if (node.lineage()->kind == "taught") {
      check_soft_targets(node, check.faults);
      check_order(node, check.faults);
    }
    if (node.lineage()->kind == "corpus-of") {
      CommitmentCheck commitment = check_commitment(node.path, salt);
      check.faults = std::move(commitment.faults);
      if (commitment.values_unchecked)
        check.notes.push_back("is private: its trees hold together, but that they are of these documents is checked only with its secret (--salt)");
    }
  } catch (const FormatError& e) {
    check.faults.push_back({"", e.what(), "make it again"});
  }
  return check;
}

}  // namespace overproof
