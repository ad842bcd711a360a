#include "provenance/statement.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "provenance/dsse.h"
#include "provenance/json_fields.h"
#include "provenance/lineage_kinds.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kBuilderId = "urn:overproof:builder";
constexpr const char* kStatementAnnotation = "statementSha256";
constexpr int64_t kMostThreads = 1024;

std::string build_type(const std::string& stage) { return fmt::format("urn:overproof:stage:{}:v1", stage); }

/// Stage names become part of a URN, of folder names and of labels in a report.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
}

Json digest_json(const Digest& digest) { return {{"sha256", digest.hex()}}; }

Digest digest_from(const Json& descriptor, const fs::path& origin) {
  return json_digest(json_field(descriptor, "digest", origin), "sha256", origin);
}

void check(const Lineage& lineage) {
  const LineageKind* kind = find_lineage_kind(lineage.kind);
  if (!kind) throw UsageError(fmt::format("unknown lineage kind '{}'", lineage.kind));
  if (!is_plain_name(lineage.stage)) throw UsageError(fmt::format("'{}' is no name for a stage", lineage.stage));
  if (!lineage.config.is_object() || !lineage.metrics.is_object())
    throw UsageError(fmt::format("{}: configuration and metrics must be JSON objects", lineage.stage));
  if (kind->origin != Origin::inputs && !lineage.inputs.empty())
    throw UsageError(fmt::format("{}: lineage kind '{}' has no inputs", lineage.stage, lineage.kind));
  for (const FileRecord& file : lineage.files)
    if (!is_safe_relative_name(file.name) || file.bytes < 0)
      throw UsageError(fmt::format("{}: '{}' cannot be a file of an artifact", lineage.stage, file.name));
}

FileRecord read_file_subject(const Json& subject, const fs::path& origin) {
  const std::string& name = json_text(subject, "name", origin);
  const Json& bytes = json_field(json_field(subject, "annotations", origin), "bytes", origin);
  if (!is_safe_relative_name(name)) throw FormatError(origin, -1, fmt::format("the name '{}' leaves the folder", name));
  if (!bytes.is_number_unsigned() || bytes.get<uint64_t>() > uint64_t(INT64_MAX))
    throw FormatError(origin, -1, fmt::format("'{}' has no size", name));
  return {name, bytes.get<int64_t>(), digest_from(subject, origin)};
}

}  // namespace

std::string make_statement(const Lineage& lineage) {
  check(lineage);
  Json subjects =
      Json::array({{{"name", lineage.name.empty() ? lineage.stage : lineage.name}, {"digest", digest_json(lineage.root)}}});
  for (const FileRecord& file : lineage.files)
    subjects.push_back({{"name", file.name}, {"digest", digest_json(file.digest)}, {"annotations", {{"bytes", file.bytes}}}});

  Json dependencies = Json::array();
  for (const auto& [slot, input] : lineage.inputs) {
    Json annotations = {{"artifact", input.name}};
    if (input.statement) annotations[kStatementAnnotation] = input.statement->hex();
    dependencies.push_back({{"name", slot}, {"digest", digest_json(input.root)}, {"annotations", annotations}});
  }

  Json builder = {{"id", kBuilderId}, {"version", lineage.builder}};
  if (!lineage.signer_pem.empty())
    builder["builderDependencies"] = Json::array({{{"name", "signing-key"},
                                                   {"mediaType", "application/x-pem-file"},
                                                   {"digest", digest_json(sha256(lineage.signer_pem))},
                                                   {"content", base64_encode(lineage.signer_pem)}}});
  Json internal = {{"stageKey", lineage.stage_key}};
  if (lineage.threads > 0) internal["threads"] = lineage.threads;
  const Json metrics = Json::array(
      {{{"name", "metrics"}, {"digest", digest_json(sha256(json_dump(lineage.metrics)))}, {"annotations", lineage.metrics}}});
  return json_dump(
      {{"_type", kStatementType},
       {"subject", subjects},
       {"predicateType", kLineagePredicateType},
       {"predicate",
        {{"buildDefinition",
          {{"buildType", build_type(lineage.stage)},
           {"externalParameters", lineage.config},
           {"internalParameters", internal},
           {"resolvedDependencies", dependencies}}},
         {"runDetails", {{"builder", builder}, {"byproducts", metrics}}},
         {"overproof_lineage", {{"formatVersion", kStatementFormat}, {"kind", lineage.kind}, {"stage", lineage.stage}}}}}});
}

Lineage read_statement(std::string_view text, const fs::path& origin) {
  const Json statement = parse_json(text, origin);
  expect_json_text(statement, "_type", kStatementType, origin);
  expect_json_text(statement, "predicateType", kLineagePredicateType, origin);
  const Json& predicate = json_field(statement, "predicate", origin);
  const Json& extension = json_field(predicate, "overproof_lineage", origin);
  const Json& version = json_field(extension, "formatVersion", origin);
  if (version != 1 && version != kStatementFormat)
    throw FormatError(origin, -1,
                      fmt::format("statement of format {}; this program reads 1 and {}", version.dump(), kStatementFormat));

  Lineage lineage;
  lineage.format = version.get<int>();
  lineage.statement = sha256(text);
  lineage.kind = json_text(extension, "kind", origin);
  lineage.stage = json_text(extension, "stage", origin);

  const Json& definition = json_field(predicate, "buildDefinition", origin);
  expect_json_text(definition, "buildType", build_type(lineage.stage), origin);
  lineage.config = json_field(definition, "externalParameters", origin);
  const Json& internal = json_field(definition, "internalParameters", origin);
  lineage.stage_key = json_text(internal, "stageKey", origin);
  if (internal.contains("threads")) {
    if (!internal["threads"].is_number_integer() || internal["threads"] < 1 || internal["threads"] > kMostThreads)
      throw FormatError(origin, -1, "'threads' is no number of threads");
    lineage.threads = internal["threads"].get<int64_t>();
  }
  for (const Json& input : json_list(definition, "resolvedDependencies", origin)) {
    const Json& annotations = json_field(input, "annotations", origin);
    Dependency dependency{json_text(annotations, "artifact", origin), digest_from(input, origin)};
    if (lineage.format > 1 && annotations.contains(kStatementAnnotation))
      dependency.statement = json_digest(annotations, kStatementAnnotation, origin);
    if (!lineage.inputs.emplace(json_text(input, "name", origin), std::move(dependency)).second)
      throw FormatError(origin, -1, fmt::format("input '{}' is listed twice", json_text(input, "name", origin)));
  }

  const Json& run = json_field(predicate, "runDetails", origin);
  const Json& builder = json_field(run, "builder", origin);
  for (const auto& [name, version] : json_field(builder, "version", origin).items()) {
    if (!version.is_string()) throw FormatError(origin, -1, "a version of the builder is not a text");
    lineage.builder[name] = version.get<std::string>();
  }
  if (builder.contains("builderDependencies"))
    for (const Json& item : json_list(builder, "builderDependencies", origin))
      if (json_text(item, "name", origin) == "signing-key") {
        lineage.signer_pem = base64_decode(json_text(item, "content", origin), origin);
        if (sha256(lineage.signer_pem) != digest_from(item, origin))
          throw FormatError(origin, -1, "the signing key does not match the digest next to it");
      }
  for (const Json& item : json_list(run, "byproducts", origin))
    if (json_text(item, "name", origin) == "metrics") {
      lineage.metrics = json_field(item, "annotations", origin);
      if (sha256(json_dump(lineage.metrics)) != digest_from(item, origin))
        throw FormatError(origin, -1, "the metrics do not match the digest next to them");
    }

  const Json& subjects = json_list(statement, "subject", origin);
  if (subjects.size() < 2) throw FormatError(origin, -1, "a statement about no files");
  lineage.name = json_text(subjects[0], "name", origin);
  lineage.root = digest_from(subjects[0], origin);
  for (size_t i = 1; i < subjects.size(); ++i) lineage.files.push_back(read_file_subject(subjects[i], origin));
  for (size_t i = 1; i < lineage.files.size(); ++i)
    if (!oms_name_less(lineage.files[i - 1].name, lineage.files[i].name))
      throw FormatError(origin, -1, fmt::format("'{}' stands out of order or twice", lineage.files[i].name));
  if (oms_root(lineage.files) != lineage.root) throw FormatError(origin, -1, "the root digest is not that of the files listed");
  try {
    check(lineage);
  } catch (const UsageError& e) {
    throw FormatError(origin, -1, e.what());
  }
  return lineage;
}

}  // namespace overproof
