#include "provenance/statement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "provenance/dsse.h"
#include "provenance/lineage_kinds.h"
#include "provenance/oms.h"
#include "provenance/signed_json.h"

namespace overproof {
namespace {

constexpr std::string_view kBuilderId = "urn:overproof:builder";
constexpr int64_t kMostThreads = 1024;

std::string build_type(const std::string& stage) { return fmt::format("urn:overproof:stage:{}:v1", stage); }

/// Stage names become part of a URN, of folder names and of labels in a report.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
}

Json digest_json(const Digest& digest) { return {{"sha256", digest.hex()}}; }

Digest digest_from(const JsonObject& descriptor) { return descriptor.object("digest").digest("sha256"); }

void check(const Lineage& lineage) {
  const LineageKind* kind = find_lineage_kind(lineage.kind);
  if (!kind) throw UsageError(fmt::format("unknown lineage kind '{}'", lineage.kind));
  if (!is_plain_name(lineage.stage)) throw UsageError(fmt::format("'{}' is no name for a stage", lineage.stage));
  if (!lineage.config.is_object() || !lineage.metrics.is_object())
    throw UsageError(fmt::format("{}: configuration and metrics must be JSON objects", lineage.stage));
  if (kind->origin != Origin::inputs && !lineage.inputs.empty())
    throw UsageError(fmt::format("{}: lineage kind '{}' has no inputs", lineage.stage, lineage.kind));
  if (!kind->made_by(lineage.stage))
    throw UsageError(fmt::format("stage '{}' does not make artifacts of lineage kind '{}'; that is made by {}", lineage.stage,
                                 lineage.kind, fmt::join(kind->stages, ", ")));
  for (const auto& [slot, input] : lineage.inputs)
    if (!kind->find_entry(slot))
      throw UsageError(fmt::format("{}: lineage kind '{}' has no input called '{}'", lineage.stage, lineage.kind, slot));
  for (const FileRecord& file : lineage.files)
    if (!is_safe_relative_name(file.name) || file.bytes < 0)
      throw UsageError(fmt::format("{}: '{}' cannot be a file of an artifact", lineage.stage, file.name));
}

FileRecord read_file_subject(const JsonObject& subject) {
  const std::string name = subject.text("name");
  if (!is_safe_relative_name(name)) subject.fail("name", fmt::format("'{}' leaves the folder", name));
  return {name, subject.object("annotations").integer("bytes", 0, INT64_MAX), digest_from(subject)};
}

void read_definition(const JsonObject& definition, Lineage& lineage) {
  definition.expect_text("buildType", build_type(lineage.stage));
  lineage.config = definition.at("externalParameters");
  const JsonObject internal = definition.object("internalParameters");
  lineage.stage_key = internal.text("stageKey");
  lineage.threads = internal.integer("threads", 1, kMostThreads, 0);
  for (const JsonObject& input : definition.objects("resolvedDependencies")) {
    const JsonObject annotations = input.object("annotations");
    Dependency dependency{annotations.text("artifact"), digest_from(input)};
    if (lineage.format > 1 && annotations.has(kStatementAnnotation))
      dependency.statement = annotations.digest(kStatementAnnotation);
    if (!lineage.inputs.emplace(input.text("name"), std::move(dependency)).second) input.fail("name", "is listed twice");
  }
}

void read_run(const JsonObject& run, const fs::path& origin, Lineage& lineage) {
  // SLSA has room for times, and reports state that no statement holds one.
  run.expect_only({"builder", "byproducts"});
  const JsonObject builder = run.object("builder"), versions = builder.object("version");
  for (const auto& [name, version] : versions.json().items()) lineage.builder[name] = versions.text(name);
  for (const JsonObject& item : builder.objects_or_empty("builderDependencies"))
    if (item.text("name") == "signing-key") {
      lineage.signer_pem = base64_decode(item.text("content"), origin);
      if (sha256(lineage.signer_pem) != digest_from(item)) item.fail("the signing key does not match the digest next to it");
    }
  int64_t metrics = 0;
  for (const JsonObject& item : run.objects("byproducts"))
    if (item.text("name") == "metrics") {
      ++metrics;
      lineage.metrics = item.at("annotations");
      if (sha256(json_dump(lineage.metrics)) != digest_from(item)) item.fail("the metrics do not match the digest next to them");
    }
  // Every stage writes one, so that readers cannot take different ones for the measurements.
  if (metrics != 1) run.fail("byproducts", fmt::format("has {} entries 'metrics', expected 1", metrics));
}

void read_subjects(const JsonObject& statement, Lineage& lineage) {
  const std::vector<JsonObject> subjects = statement.objects("subject");
  if (subjects.size() < 2) statement.fail("subject", "lists no files");
  lineage.name = subjects[0].text("name");
  lineage.root = digest_from(subjects[0]);
  for (size_t i = 1; i < subjects.size(); ++i) lineage.files.push_back(read_file_subject(subjects[i]));
  for (size_t i = 1; i < lineage.files.size(); ++i)
    if (!oms_name_less(lineage.files[i - 1].name, lineage.files[i].name))
      statement.fail("subject", fmt::format("lists '{}' out of order or twice", lineage.files[i].name));
  if (oms_root(lineage.files) != lineage.root)
    statement.fail("subject", "has a root digest that is not that of the files listed");
}

}  // namespace

bool only_measures(const Lineage& lineage, const std::string& slot) {
  const Json& config = lineage.config;
  return lineage.stage == "distill" && slot == "teacher" && lineage.inputs.contains("targets") && config.contains("teacher-share") &&
         config["teacher-share"].is_number() && config["teacher-share"] == 0;
}

bool tuning_was_undone(const Lineage& lineage) {
  const Json& metrics = lineage.metrics;
  return lineage.stage == "calibrate" && metrics.contains("tuning_kept") && metrics["tuning_kept"] == false;
}

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
      {{"_type", kInTotoStatement},
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
  const Json json = parse_json(text, origin);
  const JsonObject statement(json, origin);
  statement.expect_text("_type", kInTotoStatement);
  statement.expect_text("predicateType", kLineagePredicateType);
  const JsonObject predicate = statement.object("predicate"), extension = predicate.object("overproof_lineage");
  Lineage lineage;
  lineage.format = int(extension.integer("formatVersion", 1, kStatementFormat));
  lineage.statement = sha256(text);
  lineage.kind = extension.text("kind");
  lineage.stage = extension.text("stage");
  read_definition(predicate.object("buildDefinition"), lineage);
  read_run(predicate.object("runDetails"), origin, lineage);
  read_subjects(statement, lineage);
  try {
    check(lineage);
  } catch (const UsageError& e) {
    throw FormatError(origin, -1, e.what());
  }
  return lineage;
}

}  // namespace overproof
