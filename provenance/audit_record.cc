#include "provenance/audit_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "core/error.h"
#include "provenance/json_fields.h"
#include "provenance/oms.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

constexpr std::string_view kTypePrefix = "urn:overproof:audit:";
constexpr const char* kStatementAnnotation = "statementSha256";
constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr int64_t kMostBytes = int64_t{64} << 20;

bool is_kind(std::string_view kind) {
  return !kind.empty() && kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz-") == std::string_view::npos;
}

}  // namespace

void write_audit_record(const fs::path& file, const AuditRecord& record, const Key& auditor) {
  if (!is_kind(record.kind)) throw UsageError(fmt::format("'{}' is no kind of audit", record.kind));
  if (record.subjects.empty()) throw UsageError("an audit record needs the artifact that was examined");
  Json subjects = Json::array();
  for (const AuditSubject& subject : record.subjects) {
    Json item = {{"name", subject.name}, {"digest", {{"sha256", subject.root.hex()}}}};
    if (subject.statement) item["annotations"] = {{kStatementAnnotation, subject.statement->hex()}};
    subjects.push_back(item);
  }
  const Json statement = {{"_type", kStatementType},
                          {"subject", subjects},
                          {"predicateType", fmt::format("{}{}:v2", kTypePrefix, record.kind)},
                          {"predicate", {{"result", record.result}, {"auditor", auditor.public_key().pem()}}}};
  const Envelope envelope = sign_envelope(kInTotoPayloadType, json_dump(statement), auditor, auditor.public_key().hint());
  std::error_code error;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), error);
  if (error) throw IoError(file.parent_path(), "cannot make the folder", error.value());
  write_file_atomically(file, json_dump(envelope.to_json()) + "\n");
}

AuditRecord read_audit_record(const fs::path& file, const PublicKey* trusted) {
  const Envelope envelope = Envelope::from_json(parse_json(read_file(file, kMostBytes), file), file);
  if (envelope.payload_type != kInTotoPayloadType) throw FormatError(file, -1, "holds no in-toto statement");
  const Json statement = parse_json(envelope.payload, file);
  expect_json_fields(statement, {"_type", "subject", "predicateType", "predicate"}, file);
  expect_json_text(statement, "_type", kStatementType, file);
  AuditRecord record;
  std::string_view type = json_text(statement, "predicateType", file);
  if (!type.starts_with(kTypePrefix) || !(type.ends_with(":v1") || type.ends_with(":v2")))
    throw FormatError(file, -1, fmt::format("'{}' is no audit of overproof", type.substr(0, 200)));
  record.format = type.back() - '0';
  type.remove_prefix(kTypePrefix.size());
  type.remove_suffix(std::min(type.size(), size_t(3)));
  if (!is_kind(type)) throw FormatError(file, -1, fmt::format("'{}' is no kind of audit", type.substr(0, 200)));
  record.kind = type;
  for (const Json& subject : json_list(statement, "subject", file)) {
    AuditSubject& s = record.subjects.emplace_back(
        AuditSubject{json_text(subject, "name", file), json_digest(json_field(subject, "digest", file), "sha256", file)});
    if (record.format > 1 && subject.contains("annotations"))
      s.statement = json_digest(subject["annotations"], kStatementAnnotation, file);
  }
  if (record.subjects.empty()) throw FormatError(file, -1, "names no artifact");
  const Json& predicate = json_field(statement, "predicate", file);
  expect_json_fields(predicate, {"result", "auditor"}, file);
  record.result = json_field(predicate, "result", file);
  const PublicKey key = trusted ? *trusted : PublicKey::from_pem(json_text(predicate, "auditor", file), file);
  record.signer_hint = key.hint();
  record.signature_valid = envelope.key_id == key.hint() && envelope.verify(key);
  return record;
}

AuditSubject audit_subject(const ArtifactNode& node) {
  if (!node.lineage() || !node.check.faults.empty())
    throw ProvenanceError(fmt::format("{}: does not hold, so no audit of it can be recorded; run 'overproof audit verify'",
                                      node.path.string()));
  AuditSubject subject{node.name, node.lineage()->root};
  if (!node.check.foreign) subject.statement = node.lineage()->statement;
  return subject;
}

AuditSubject audit_subject(const fs::path& model) {
  const fs::path clean = fs::absolute(model).lexically_normal();
  AuditSubject subject{(clean.has_filename() ? clean : clean.parent_path()).filename().string(), {}};
  if (fs::exists(model / kClaimsName)) {
    const ArtifactCheck check = check_artifact(model, VerifyFiles::yes, nullptr);
    if (check.faults.empty()) return {subject.name, check.lineage->root, check.lineage->statement};
  }
  subject.root = scan_artifact(model).root;  // a suspect whose statement does not hold is still that suspect
  return subject;
}

const ArtifactNode* examined_artifact(const RunFolder& run, const AuditSubject& subject, std::string& why) {
  why = fmt::format("'{}' (sha256:{}) is not here", subject.name, subject.root.hex());
  for (const ArtifactNode& node : run.nodes) {
    if (!node.lineage() || node.lineage()->root != subject.root) continue;
    if (!node.check.faults.empty()) why = fmt::format("'{}' does not hold", node.name);
    else if (node.check.foreign || subject.statement == node.lineage()->statement) return &node;
    else if (!subject.statement)
      why = fmt::format("it names '{}' by its files alone (format 1), so the statement may have been signed anew since", node.name);
    else why = fmt::format("the statement of '{}' was signed anew since", node.name);
  }
  return nullptr;
}

fs::path audit_record_path(const fs::path& run_or_artifact, std::string_view kind, std::string_view name) {
  const auto run = run_of(run_or_artifact);
  if (!run)
    throw UsageError(
        fmt::format("{}: is no run and no artifact, so a record about it has no place; 'overproof import' brings a "
                    "model into a run",
                    run_or_artifact.string()));
  return *run / kAuditFolder / fmt::format("{}-{}.json", kind, name);
}

AuditRecorder::AuditRecorder(const RecordOptions& options, const fs::path& examined) : examined_(examined) {
  if (!options.record) return;
  audit_record_path(examined, "", "");
  key_ = open_key(options.key);
}

void AuditRecorder::write(std::string_view name, const AuditRecord& record, std::ostream* out) const {
  const std::string line = write(name, record);
  if (out) *out << line;
}

std::string AuditRecorder::write(std::string_view name, const AuditRecord& record) const {
  if (!key_) return "";
  const fs::path file = audit_record_path(examined_, record.kind, name);
  write_audit_record(file, record, *key_);
  return fmt::format("signed: {}\n", file.string());
}

std::vector<fs::path> audit_record_files(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  try {
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".json" && entry.is_regular_file()) files.push_back(entry.path());
  } catch (const fs::filesystem_error& e) {
    throw IoError(folder, "cannot list", e.code().value());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace overproof
