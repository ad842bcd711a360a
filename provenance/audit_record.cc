#include "provenance/audit_record.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "core/printable.h"
#include "provenance/signed_json.h"
#include "provenance/statement.h"
#include "provenance/oms.h"
#include "provenance/outside.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

constexpr std::string_view kTypePrefix = "urn:overproof:audit:";
constexpr int64_t kMostBytes = int64_t{64} << 20;

bool is_kind(std::string_view kind) {
  return !kind.empty() && kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz-") == std::string_view::npos;
}

}  // namespace

void write_audit_record(const fs::path& file, const AuditRecord& record, const Key& auditor) {
  OVERPROOF_CHECK(is_kind(record.kind) && !record.subjects.empty());
  Json subjects = Json::array();
  for (const AuditSubject& subject : record.subjects) {
    Json item = {{"name", subject.name}, {"digest", {{"sha256", subject.root.hex()}}}};
    if (subject.statement) item["annotations"] = {{kStatementAnnotation, subject.statement->hex()}};
    subjects.push_back(item);
  }
  const Json statement = {{"_type", kInTotoStatement},
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
  const Json json = parse_json(envelope.payload, file);
  const JsonObject statement(json, file);
  statement.expect_only({"_type", "subject", "predicateType", "predicate"});
  statement.expect_text("_type", kInTotoStatement);
  AuditRecord record;
  const std::string type_text = statement.text("predicateType");
  std::string_view type = type_text;
  if (!type.starts_with(kTypePrefix) || !(type.ends_with(":v1") || type.ends_with(":v2")))
    statement.fail("predicateType", fmt::format("'{}' is no audit of overproof", type.substr(0, 200)));
  record.format = type.back() - '0';
  type.remove_prefix(kTypePrefix.size());
  type.remove_suffix(std::min(type.size(), size_t(3)));
  if (!is_kind(type)) statement.fail("predicateType", fmt::format("'{}' is no kind of audit", type.substr(0, 200)));
  record.kind = type;
  for (const JsonObject& subject : statement.objects("subject")) {
    AuditSubject& s = record.subjects.emplace_back(AuditSubject{subject.text("name"), subject.object("digest").digest("sha256")});
    if (record.format > 1)
      if (const auto annotations = subject.find_object("annotations")) s.statement = annotations->digest(kStatementAnnotation);
  }
  if (record.subjects.empty()) statement.fail("subject", "names no artifact");
  const JsonObject predicate = statement.object("predicate");
  predicate.expect_only({"result", "auditor"});
  record.result = predicate.at("result");
  const PublicKey key = trusted ? *trusted : PublicKey::from_pem(predicate.text("auditor"), file);
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
  subject.root = scan_input(model).root;  // a suspect whose statement does not hold is still that suspect
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
  const fs::path folder = *run / kAuditFolder;
  // A run of another maker may lead elsewhere, where another run's records are.
  std::error_code error;
  if (fs::is_symlink(fs::symlink_status(folder, error)))
    throw ProvenanceError(fmt::format("{}: is a link, through which a record would be written outside of the run; remove it", folder.string()));
  return folder / fmt::format("{}-{}.json", kind, name);
}

AuditRecorder::AuditRecorder(const RecordOptions& options, const fs::path& examined) : examined_(examined) {
  if (!options.record) return;
  audit_record_path(examined, "", "");
  key_ = open_key(options.key);
}

std::string AuditRecorder::write(std::string_view name, const AuditRecord& record) const {
  if (!key_) return {};
  const fs::path file = audit_record_path(examined_, record.kind, name);
  write_audit_record(file, record, *key_);
  return fmt::format("signed: {}\n", printable(file.string()));
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
