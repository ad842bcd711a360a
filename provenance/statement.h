#pragma once
// The lineage statement: what an artifact is, what it was made from and how. An in-toto Statement v1 whose predicate is
// SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance), so that other tools read it:
//
//   subject                                    the artifact (its name, digest = OMS root), then its files, each with its size
//   buildDefinition.buildType                  urn:overproof:stage:<stage>:v1
//   buildDefinition.externalParameters         the effective configuration
//   buildDefinition.internalParameters         {"stageKey"}: digest of all that decides whether the stage must run again;
//                                              {"threads"}, where known: the last bit of sums in libtorch can depend on it
//   buildDefinition.resolvedDependencies       inputs: name = the slot, digest = root, annotations.artifact = logical name,
//                                              annotations.statementSha256 = SHA-256 of the input's own statement
//   runDetails.builder                         id, version and, as builderDependencies, the public key
//   runDetails.byproducts                      metrics, exactly once: name = "metrics", digest of their text, annotations = the metrics
//   overproof_lineage                          {"formatVersion", "kind", "stage"}; SLSA reserves <vendor>_<name> for us
//
// Format 2 binds an input by its files (root) and by its statement: statementSha256 is the digest of the statement's text,
// the payload of its DSSE envelope, so no configuration, metric, licence or input of an ancestor can be signed anew without
// breaking every descendant. An input that no stage of ours made has a root only. Statements of format 1 have no statementSha256
// anywhere; they stay readable, and `audit verify` names them as binding files alone.
//
// `kind` is how the artifact relates to its inputs: see provenance/lineage_kinds.h. A statement has no time of day and no path:
// the same inputs, configuration, build and key give the same bytes. The signature around it differs each time.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace overproof {

inline constexpr const char* kStatementAnnotation = "statementSha256";  ///< of a subject or input: the digest of its statement

inline constexpr std::string_view kLineagePredicateType = "https://slsa.dev/provenance/v1";

inline constexpr int kStatementFormat = 2;  ///< what make_statement writes; read_statement also reads 1

struct Dependency {
  std::string name;  ///< logical name of the artifact: "corpus", "SmolLM2-135M-Instruct.Q4_1.gguf"; never a path
  Digest root;
  std::optional<Digest> statement = {};  ///< Lineage::statement of the input; none in format 1, and where it has no statement
};

struct Lineage {
  std::string kind;                            ///< a name in provenance/lineage_kinds.h
  std::string stage;                           ///< what made it: "distill"
  std::string name;                            ///< what it is called, the folder's name in a run; empty: the stage's
  std::string stage_key;                       ///< free text chosen by the pipeline
  int64_t threads = 0;                         ///< it was computed with; 0: not recorded
  Json config = Json::object();                ///< effective values, an object
  std::map<std::string, Dependency> inputs;    ///< by slot: "teacher", "corpus"
  Json metrics = Json::object();               ///< an object; reproducible values only
  std::map<std::string, std::string> builder;  ///< versions: {"overproof": "0.1.0", "libtorch": "2.15.0"}
  // Filled in by seal_artifact() and open_artifact():
  int format = kStatementFormat;
  Digest root;
  Digest statement;  ///< SHA-256 of the statement's text; zeros where another tool signed the artifact
  std::vector<FileRecord> files;
  std::string signer_pem;  ///< public key of who sealed it
};

/// Whether calibrate threw its tuning away, so that the weights are those from before it. No other stage can state that.
bool tuning_was_undone(const Lineage& lineage);

/// Whether the input in this slot was only measured with: the teacher alongside of a training in which its share is 0.
bool only_measures(const Lineage& lineage, const std::string& slot);

/// The statement's text. Throws UsageError on an unknown kind, a stage that does not make that kind, an input that the kind has no
/// slot for, a config or metrics that is no object, an unsafe name.
std::string make_statement(const Lineage& lineage);

/// Reads what make_statement wrote, now or in format 1. Throws FormatError naming `origin`; checks that root and files agree, and
/// that metrics and signing key are those whose digests are next to them.
Lineage read_statement(std::string_view text, const fs::path& origin);

}  // namespace overproof
