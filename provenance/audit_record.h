#pragma once
// What an auditor found, signed by the auditor: one DSSE envelope in a file of its own, an in-toto Statement v1 about the
// artifact that was examined. Unlike claims.jsonl it is not part of the artifact, since its auditor seldom is its maker.
//
//   subject        the examined artifacts: name, OMS root and, as annotations.statementSha256, the SHA-256 of the artifact's
//                  statement (Lineage::statement); a comparison has two, and one signed by another tool has no statement
//   predicateType  urn:overproof:audit:<kind>:v2; v1 had no statementSha256 and stays readable
//   predicate      {"result": of that kind of audit; reproducible values, no paths, no times, "auditor": PEM of the key}
//
// A run keeps them in its folder `audits/`, where the report looks for them.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "provenance/dsse.h"

namespace overproof {

inline constexpr std::string_view kAuditFolder = "audits";

struct ArtifactNode;
struct RunFolder;

struct AuditSubject {
  std::string name;
  Digest root;
  std::optional<Digest> statement = {};  ///< none in format 1, and of what another tool signed
};
/// What an audit of this artifact examines. Throws ProvenanceError on an artifact of ours that does not hold.
AuditSubject audit_subject(const ArtifactNode& node);
/// Of any model: with its statement where it is an artifact of ours, else by its files.
AuditSubject audit_subject(const fs::path& model);

struct AuditRecord {
  std::string kind;  ///< "rows", "replay", "recompute", "compare": lower-case letters and '-'
  std::vector<AuditSubject> subjects;
  Json result = Json::object();
  std::string signer_hint;       ///< filled in by read_audit_record
  bool signature_valid = false;  ///< by the key that is named in it, or the trusted one
  int format = 2;                ///< filled in by read_audit_record
};

/// Writes the envelope, atomically; folders are made. `record` has a kind of letters and "-", and a subject. Throws IoError.
void write_audit_record(const fs::path& file, const AuditRecord& record, const Key& auditor);

/// Throws FormatError naming the file. `trusted`: nullptr takes the key that the record names, which shows only that nothing
/// changed.
AuditRecord read_audit_record(const fs::path& file, const PublicKey* trusted);

/// The artifact of the run that a record is about, by files and statement; nullptr, and why not, where it is not here or the
/// record does not name its statement.
const ArtifactNode* examined_artifact(const RunFolder& run, const AuditSubject& subject, std::string& why);

/// Where a record about a run, or about one artifact in it, belongs: `audits/<kind>-<name>.json` of that run. Throws UsageError
/// on a path that is neither, such as a lone model: a record next to it would be a file that no report reads.
fs::path audit_record_path(const fs::path& run_or_artifact, std::string_view kind, std::string_view name);

/// The files of a folder that should be records (*.json), by name; none when there is no such folder. Throws IoError.
std::vector<fs::path> audit_record_files(const fs::path& folder);

/// Options of audits that can sign what they found.
struct RecordOptions {
  bool record = false;
  KeyOptions key;
  template <class V>
  void visit(V&& v) {
    v("record", record, any_value(), "sign what was found, in audits/ of the run");
    key.visit(v);
  }
};

/// Signs what an audit found, if a record is asked for. Made before the work, which a key that cannot be read should not waste.
class AuditRecorder {
 public:
  /// `examined`: a run, or an artifact in one. Throws as open_key() and audit_record_path().
  AuditRecorder(const RecordOptions& options, const fs::path& examined);
  /// Writes `audits/<kind>-<name>.json`. Returns the line to print about it; "" where no record is asked for.
  std::string write(std::string_view name, const AuditRecord& record) const;

 private:
  std::optional<Key> key_;
  fs::path examined_;
};

}  // namespace overproof
