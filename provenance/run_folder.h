#pragma once
// A run folder as a graph: its artifacts, and which of them each was made from, found by digest.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/stage.h"
#include "provenance/artifact.h"
#include "provenance/audit_record.h"
#include "provenance/lineage_kinds.h"

namespace overproof {

/// What the program and its audits write next to the artifacts of a run.
inline constexpr std::string_view kOwnFiles[] = {"run.json", "report.html", "report.json", "report.md"};
inline constexpr std::string_view kOwnFolders[] = {kKeptFolder, kAuditFolder, kLogsFolder};

struct ArtifactNode {
  std::string name;  ///< the folder's
  fs::path path;
  ArtifactCheck check;
  std::map<std::string, int> parents;  ///< slot -> index in RunFolder::nodes; -1: not found
  const Lineage* lineage() const { return check.lineage ? &*check.lineage : nullptr; }
  /// The row of its lineage kind; nullptr where it has no statement of ours.
  const LineageKind* kind() const { return lineage() ? find_lineage_kind(lineage()->kind) : nullptr; }
  /// The slots of its statement whose content enters it in this way, by name.
  std::vector<std::string> slots_of(Entry entry) const;
  /// Whether this input is a model or a tokenizer from outside of any run: the statement names it by its files alone, and
  /// nothing here records its origin. Statements of format 1 name every input so: of these it is not known, and false.
  bool is_from_outside(const std::string& slot) const;
};

struct RunFolder {
  fs::path path;
  bool single = false;                        ///< asked about one artifact: only it and its ancestors are here
  std::vector<ArtifactNode> nodes;            ///< parents before children, else by name; artifacts in a cycle come last
  std::vector<std::string> unsigned_folders;  ///< folders in the run that carry no signature at all
  std::vector<std::string> loose;             ///< what no signature covers: next to the artifacts, or in them and left out by it
  std::vector<int> cyclic;                    ///< nodes that are their own ancestors, or made from one; each has a fault
  const ArtifactNode* find(std::string_view name) const;
  /// The node and all it was made from, as indices.
  std::vector<int> ancestors_of(int node) const;
};

/// `folder` is a run or one artifact; of the latter the neighbours are searched for its inputs. A node whose statement names an
/// input by another statement than is here has a fault. Throws IoError, and UsageError when there is no artifact.
RunFolder load_run(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted);

/// Throws ProvenanceError when an artifact has faults: an answer that rests on changed files would be worth nothing.
void require_sound(const ArtifactNode& node);

/// The one corpus; throws UsageError when there is none or several.
const ArtifactNode& only_corpus(const RunFolder& run);

/// The run that `path` is, or is an artifact of; nothing where it is neither.
std::optional<fs::path> run_of(const fs::path& path);

}  // namespace overproof
