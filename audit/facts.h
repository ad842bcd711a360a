#pragma once
// What the signed statements of a run say, collected once for everybody who writes it down in another format: bills of materials,
// Croissant, summaries, policies. Nothing here is measured or guessed; what no statement says is left empty.

#include <iosfwd>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "audit/licenses.h"
#include "core/json_fwd.h"
#include "provenance/lineage_kinds.h"
#include "provenance/run_folder.h"

namespace overproof {

struct Tally {
  int64_t documents = 0, bytes = 0, tokens = 0;
};

struct LicenseCount {
  std::string recorded;
  LicenseExpression license;
  Tally count;
};

struct SourceCount {
  std::string name;
  Tally count;
};

struct CorpusFacts {
  std::vector<LicenseCount> licenses;  ///< by recorded name
  std::vector<SourceCount> sources;    ///< by name
  Tally total;
};

/// An evaluation's measurements of one model.
struct Measurement {
  std::string name, value;
};

struct ArtifactFacts {
  int node = 0;             ///< index in LineageFacts::run.nodes
  std::string name, title;  ///< the folder's; what its import calls it, else the same
  Role role = Role::unknown;
  const LineageKind* kind = nullptr;  ///< nullptr where another tool signed it
  std::string license;  ///< as recorded of an imported model; "" elsewhere
  std::optional<CorpusFacts> corpus;
  std::string architecture;  ///< of a model, from its config.json: "llama"; "" where it has none
  std::vector<Measurement> measured;
  int64_t bytes = 0;
};

struct LineageFacts {
  RunFolder run;
  std::vector<ArtifactFacts> artifacts;  ///< parents before children; what was signed elsewhere has no role
  int subject = -1;                      ///< the artifact asked about; -1: the run as a whole

  const ArtifactNode& node(const ArtifactFacts& a) const { return run.nodes[size_t(a.node)]; }
  const Lineage& lineage(const ArtifactFacts& a) const { return *node(a).lineage(); }
  /// The artifact of a node's slot; nullptr where it is not here.
  const ArtifactFacts* parent(const ArtifactFacts& a, const std::string& slot) const;
  /// Artifacts that no other is made from, or the subject alone.
  std::vector<const ArtifactFacts*> ends() const;
  std::string title() const;  ///< of the subject, else the run folder's name
};

/// All ways in which each artifact (index in `facts.artifacts`) got into `of`; `of` itself is left out. Only ways that shape the
/// result count: what merely measured it does not.
std::vector<std::set<Way>> ways_into(const LineageFacts& facts, const ArtifactFacts& of);

/// Whether any ancestor of `of` that a statement names is not here.
bool ancestors_missing(const LineageFacts& facts, const ArtifactFacts& of);

struct FactsOptions {
  VerifyFiles verify = VerifyFiles::size;
  bool tolerate_faults = false;  ///< artifacts that do not hold are left out instead of refused
};

/// `folder`: a run or one artifact. Throws ProvenanceError where a statement does not hold, since a document in another format
/// would carry the fault on without its signature; then `audit verify` says more. Throws UsageError and IoError as load_run.
LineageFacts collect_facts(const fs::path& folder, const PublicKey* trusted, const FactsOptions& options = {});

/// What to say of an artifact with a fault, and what to do.
std::string does_not_hold(const ArtifactNode& node);

/// A file of a sealed artifact, checked against the statement's digest; nothing when the statement lists no such file. Throws
/// ProvenanceError when it differs, FormatError when it is larger than `max_bytes`.
std::optional<std::string> sealed_text(const ArtifactNode& node, std::string_view name, int64_t max_bytes = int64_t{64} << 20);

/// The time that a document shall carry, as "2026-11-24T12:00:00Z": `given` (RFC 3339 in UTC), else $SOURCE_DATE_EPOCH, else
/// nothing: no statement holds a time, so the same run gives the same bytes. Throws UsageError.
std::optional<std::string> document_time(const std::string& given);

/// A UUID (RFC 9562, version 8) out of what identifies a thing.
std::string uuid_of(const Digest& digest);

/// Letters, digits and "-._~" as they are, all else as %XX: a part of a URN or a URL.
std::string url_escape(std::string_view text);

/// Prints `text` with a newline at its end, or writes it to `out` as it is and says so. Throws UsageError where the file would
/// break an artifact's seal.
void deliver(const std::string& text, const std::string& out_file, bool json, std::ostream& out);

}  // namespace overproof
