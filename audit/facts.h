#pragma once
// The facts of a run: what its signed statements and the files they list contain, read once, with one tolerance, for the report and
// for every other format: bills of materials, Croissant, summaries, policies. Nothing here is measured or guessed; what no
// statement records is left empty.
//
// One tolerance: a member that is missing is empty; in licence tables and metrics one of the wrong type, or a negative or broken
// count, is a FormatError of its file. Evaluations are read as records/evaluation.h does. Counts are at most kMostCount, and sums
// stop at INT64_MAX.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "audit/licenses.h"
#include "core/answer.h"
#include "core/config.h"
#include "core/json_fwd.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"
#include "provenance/lineage_kinds.h"
#include "provenance/run_folder.h"
#include "records/arena.h"
#include "records/evaluation.h"

namespace overproof {

inline constexpr int64_t kMostCount = int64_t{1} << 53;  ///< of documents, bytes or tokens in one row of a table

/// A value of a configuration as a text: strings bare, all else as JSON.
std::string option_text(const Json& value);

struct Tally {
  int64_t documents = 0, bytes = 0, tokens = 0;
  void add(const Tally& other);  ///< sums that would overflow are INT64_MAX
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
  Tally total;                         ///< of the licences
  bool committed = false;              ///< to its documents, for proofs of presence and absence
};

/// One row of an evaluation. What it does not record is empty.
struct EvaluatedModel {
  std::string name;   ///< as the evaluation calls it: its slot
  int artifact = -1;  ///< index in LineageFacts::artifacts; -1: not here
  std::optional<double> perplexity, kl_mean, kl_p99, top1_agreement, ffn_activation, parameter_activation, bytes, parameters,
      bytes_per_token, loops, loops_penalised, calibration_error;
  std::vector<EvaluationTask> tasks;
  std::string bound = {};  ///< the artifact in that slot, by its own name; "" where it is not here
};

struct EvaluationFacts {
  std::optional<double> tokens, repetition_penalty;
  std::vector<EvaluatedModel> models;
};

/// An evaluation's measurement of one model.
struct Measurement {
  std::string name, value;
};

struct InputFacts {
  std::string slot, name;  ///< the artifact's name here, else as the statement calls it
  Digest root;
  int artifact = -1;  ///< index in LineageFacts::artifacts; -1: not here
  bool only_measures = false;  ///< only_measures() of provenance/statement.h
};

struct ArtifactFacts {
  int node = 0;             ///< index in LineageFacts::run.nodes
  std::string name, title;  ///< the folder's; what its import calls it, else the same
  Role role = Role::unknown;
  const LineageKind* kind = nullptr;  ///< nullptr where another tool signed it
  std::vector<InputFacts> inputs;     ///< by slot
  std::string license;                ///< as recorded of an imported model; "" elsewhere
  std::optional<CorpusFacts> corpus;
  std::optional<EvaluationFacts> evaluation;
  std::optional<Arena> arena;  ///< of an artifact that `arena` made
  std::string architecture;                              ///< of a model, from its config.json: "llama"; "" where it has none
  std::vector<Measurement> measured;                     ///< by the evaluations of the run
  std::optional<double> ffn_activation;                  ///< of a model: share of FFN weights that a token uses
  std::optional<double> parameters;                      ///< of a model from outside, as its import counted them
  std::string order_beacon;                              ///< of targets: public randomness that the order is bound to
  std::optional<int64_t> taught_tokens, taught_windows;  ///< of targets
  bool recorded = false;                                 ///< of targets: rows of a teacher that is out of reach
  std::vector<std::string> acknowledged;                 ///< licences and terms that were acknowledged by name, as signed
  int64_t bytes = 0;
  bool is_end = false;  ///< a model made here: no other model here carries its weights on; anything else: nothing here was made from it, evaluations apart

  /// The inputs whose content enters it in this way, by slot: of Entry::outputs, what taught it, whatever the slots are called.
  std::vector<const InputFacts*> entering(Entry entry) const;
};

/// An audit record in `audits/` of the run.
struct AuditFacts {
  std::string file;        ///< its name
  std::string unreadable;  ///< why it cannot be read; then `record` is empty
  AuditRecord record;      ///< checked by the key that it names
  std::vector<std::string>
      here;              ///< of each subject the artifact here with those files and that statement; "" where there is none
  std::string not_here;  ///< why subjects are not here; "" when all are
};

struct LeftOut {
  int node = 0;     ///< index in LineageFacts::run.nodes
  std::string why;  ///< its first fault
};

struct LineageFacts {
  RunFolder run;
  std::vector<ArtifactFacts> artifacts;                   ///< parents before children; what was signed elsewhere has no role
  std::vector<LeftOut> left_out;                          ///< artifacts that do not hold, with FactsOptions::tolerate_faults
  int subject = -1;                                       ///< the artifact asked about; -1: the run as a whole
  std::map<std::string, std::set<std::string>> builders;  ///< versions of what made the artifacts
  std::vector<AuditFacts> audits;                         ///< by file name, with FactsOptions::audits
  int64_t audits_not_read = 0;                            ///< files beyond the first thousand

  const ArtifactNode& node(const ArtifactFacts& a) const { return run.nodes[size_t(a.node)]; }
  const Lineage& lineage(const ArtifactFacts& a) const { return *node(a).lineage(); }
  /// The artifact of a node's slot; nullptr where it is not here.
  const ArtifactFacts* parent(const ArtifactFacts& a, const std::string& slot) const;
  const ArtifactFacts* find(std::string_view name) const;  ///< nullptr where it is not here
  const ArtifactFacts* artifact(const InputFacts& input) const {
    return input.artifact < 0 ? nullptr : &artifacts[size_t(input.artifact)];
  }
  /// Whether `a` was made with the outputs of `model` itself, rather than of an artifact that holds them.
  bool taught_by(const ArtifactFacts& a, const ArtifactFacts& model) const;
  /// Artifacts that no other is made from, or the subject alone.
  std::vector<const ArtifactFacts*> ends() const;
  std::string title() const;  ///< of the subject, else the run folder's name
};

/// Of a corpus artifact: its licenses.json. Throws FormatError, and ProvenanceError where it is not the file that was signed.
CorpusFacts corpus_facts(const ArtifactNode& node);

/// All ways in which each artifact (index in `facts.artifacts`) got into `of`; `of` itself is left out. Only ways that shape the
/// result count: what merely measured it does not.
std::vector<std::set<Way>> ways_into(const LineageFacts& facts, const ArtifactFacts& of);

/// Whether any ancestor of `of` that a statement names is not here.
bool ancestors_missing(const LineageFacts& facts, const ArtifactFacts& of);

struct FactsOptions {
  VerifyFiles verify = VerifyFiles::size;
  bool tolerate_faults = false;   ///< artifacts that do not hold are left out instead of refused
  bool tolerate_subject = false;  ///< with tolerate_faults: also the artifact that was asked about
  bool audits = false;            ///< read the audit records of the run, too
};

/// `folder`: a run or one artifact. Throws ProvenanceError where a statement does not hold, since a document in another format
/// would repeat the fault without its signature; `audit verify` then names it. Throws FormatError where a file is not what files of
/// its name are, and UsageError and IoError as load_run.
LineageFacts collect_facts(const fs::path& folder, const PublicKey* trusted, const FactsOptions& options = {});
/// The same of a run that was loaded, and perhaps verified, before; `options.verify` is not used.
LineageFacts collect_facts(RunFolder run, const FactsOptions& options);

/// Of each corpus: require_license_sums() of audit/corpus_check.h. For answers about licences.
void require_license_sums(const LineageFacts& facts);

/// The message about an artifact with a fault: what is wrong, and what to do.
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

/// The options of every document made of the facts.
struct DocumentOptions {
  fs::path out;
  std::string created;
  TrustOptions trust;
  template <class V>
  void visit(V&& v, std::string_view about_out, std::string_view about_created) {
    v("out", out, any_value(), about_out);
    v("created", created, any_value(), about_created);
    trust.visit(v);
  }
  std::optional<std::string> time() const { return document_time(created); }
  LineageFacts facts(const fs::path& folder) const {
    LineageFacts found = collect_facts(folder, trust.key().get());
    require_license_sums(found);
    return found;
  }
};

/// Where `out` is. Throws UsageError inside an artifact: there it would be an unsigned file, and break the seal.
fs::path outside_artifacts(const fs::path& out);

/// A document as the answer of a verb: itself, with a newline at its end, or, where it was written to `out`, the file's name and
/// size. Throws UsageError where the file would break an artifact's seal.
Answer deliver(const std::string& text, Json json, const fs::path& out);

}  // namespace overproof
