#pragma once
// What an auditor found, signed by the auditor: one DSSE envelope in a file of its own, an in-toto Statement v1 about the
// artifact that was examined. Unlike claims.jsonl it is no part of the artifact, since whoever audits is seldom who made it.
//
//   subject        the examined artifact: its name and OMS root; for a comparison both models
//   predicateType  urn:overproof:audit:<kind>:v1
//   predicate      whatever that kind of audit has to say; reproducible values, no paths, no times
//
// A run keeps them in its folder `audits/`, where the report looks for them.

#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "provenance/dsse.h"

namespace overproof {

inline constexpr std::string_view kAuditFolder = "audits";

struct AuditSubject {
  std::string name;
  Digest root;
};

struct AuditRecord {
  std::string kind;  ///< "rows", "replay", "recompute", "compare": lower-case letters and '-'
  std::vector<AuditSubject> subjects;
  Json result = Json::object();
  std::string signer_hint;       ///< filled in by read_audit_record
  bool signature_valid = false;  ///< by the key that is named in it, or the trusted one
};

/// Writes the envelope, atomically; folders are made. Throws UsageError on an unsafe kind or no subject, IoError.
void write_audit_record(const fs::path& file, const AuditRecord& record, const Key& auditor);

/// Throws FormatError naming the file. `trusted`: nullptr takes the key that the record names, which shows only that nothing
/// changed.
AuditRecord read_audit_record(const fs::path& file, const PublicKey* trusted);

/// Where a record about a run, or about one artifact in it, belongs: `audits/<kind>-<name>.json` of that run. Throws UsageError
/// on a path that is neither, such as a lone model: a record beside it would be a file that no report reads.
fs::path audit_record_path(const fs::path& run_or_artifact, std::string_view kind, std::string_view name);

/// The files of a folder that should be records (*.json), by name; none when there is no such folder. Throws IoError.
std::vector<fs::path> audit_record_files(const fs::path& folder);

/// How the command line asks for a record. Audits that sign what they found visit this among their own options.
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
  /// Writes `audits/<kind>-<name>.json`, and says so on `out` unless that is null.
  void write(std::string_view name, const AuditRecord& record, std::ostream* out) const;
  /// The same; returns the line about it, "" without a record.
  std::string write(std::string_view name, const AuditRecord& record) const;

 private:
  std::optional<Key> key_;
  fs::path examined_;
};

}  // namespace overproof
