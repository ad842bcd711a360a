#include "audit/openlineage.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>

#include "audit/facts.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

constexpr const char* kProducer = "urn:overproof:producer";
constexpr const char* kSchema = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

Json facet(const char* version, const char* name, Json fields) {
  fields["_producer"] = kProducer;
  fields["_schemaURL"] = fmt::format("https://openlineage.io/spec/facets/{}/{}.json#/$defs/{}", version, name, name);
  return fields;
}

/// A facet of our own; its name begins with ours, as the specification asks.
Json own_facet(Json fields) {
  fields["_producer"] = kProducer;
  fields["_schemaURL"] = "urn:overproof:openlineage:lineage:1-0-0";
  return fields;
}

Json dataset(const LineageDataset& d) {
  Json facets = Json::object();
  if (!d.version.empty()) facets["version"] = facet("1-0-1", "DatasetVersionDatasetFacet", {{"datasetVersion", d.version}});
  if (!d.kind.empty()) {
    const bool data = !lineage_kind(d.kind).is_model();
    facets["datasetType"] =
        facet("1-0-1", "DatasetTypeDatasetFacet", {{"datasetType", data ? "FILE" : "MODEL"}, {"subType", d.kind}});
  }
  return {{"namespace", openlineage_namespace()}, {"name", d.name}, {"facets", facets}};
}

std::string sealed_at(const fs::path& artifact) {
  struct stat info {};
  const fs::path file = artifact / kClaimsName;
  if (::stat(file.c_str(), &info) != 0) throw IoError(file, "cannot read when it was written", errno);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(info.st_mtime));
}

}  // namespace

std::string openlineage_namespace() {
  const char* name = std::getenv("OPENLINEAGE_NAMESPACE");
  return name && *name ? name : "overproof";
}

std::string openlineage_name(const fs::path& artifact) {
  const fs::path clean = fs::absolute(artifact / ".").lexically_normal().parent_path();
  const std::string run = clean.parent_path().filename().string();
  return run.empty() ? clean.filename().string() : run + "/" + clean.filename().string();
}

Json openlineage_event(const LineageEvent& event) {
  Json parameters = Json::array();
  if (event.config.is_object())
    for (const auto& [name, value] : event.config.items()) parameters.push_back({{"key", name}, {"value", option_text(value)}});
  Json run_facets = {
      {"processing_engine", facet("1-1-1", "ProcessingEngineRunFacet", {{"name", "overproof"}, {"version", event.version}})},
      {"executionParameters", facet("1-0-0", "ExecutionParametersRunFacet", {{"parameters", parameters}})},
      {"overproof_lineage", own_facet({{"stage", event.stage}, {"kind", event.kind}})}};
  if (!event.error.empty())
    run_facets["errorMessage"] =
        facet("1-0-1", "ErrorMessageRunFacet", {{"message", event.error}, {"programmingLanguage", "C++"}});
  Json job_facets = {{"jobType", facet("2-0-4", "JobTypeJobFacet",
                                       {{"processingType", "BATCH"}, {"integration", "OVERPROOF"}, {"jobType", "STAGE"}})}};
  if (!event.help.empty()) job_facets["documentation"] = facet("1-1-0", "DocumentationJobFacet", {{"description", event.help}});
  Json inputs = Json::array(), outputs = Json::array();
  for (const LineageDataset& d : event.inputs) inputs.push_back(dataset(d));
  for (const LineageDataset& d : event.outputs) {
    Json output = dataset(d);
    if (d.bytes >= 0 || d.files >= 0)
      output["outputFacets"] = {{"outputStatistics", facet("1-0-2", "OutputStatisticsOutputDatasetFacet",
                                                           {{"size", d.bytes}, {"fileCount", d.files}})}};
    outputs.push_back(output);
  }
  return {{"eventType", event.type},
          {"eventTime", event.time},
          {"producer", kProducer},
          {"schemaURL", kSchema},
          {"run", {{"runId", event.run_id}, {"facets", run_facets}}},
          {"job", {{"namespace", openlineage_namespace()}, {"name", event.job}, {"facets", job_facets}}},
          {"inputs", inputs},
          {"outputs", outputs}};
}

Answer audit_openlineage(const OpenLineageConfig& config, const fs::path& folder) {
  const std::optional<std::string> time = config.document.time();
  const LineageFacts facts = config.document.facts(folder);
  std::string text;
  Json events = Json::array();
  for (const ArtifactFacts& a : facts.artifacts) {
    const ArtifactNode& node = facts.node(a);
    if (node.check.foreign) continue;
    const Lineage& lineage = facts.lineage(a);
    const std::string name = openlineage_name(node.path);
    LineageEvent event;
    event.run_id = uuid_of(sha256("openlineage run of " + lineage.root.hex() + " " + lineage.stage_key));
    event.time = time ? *time : sealed_at(node.path);
    event.job = name;
    event.stage = lineage.stage;
    event.kind = lineage.kind;
    event.config = lineage.config;
    const auto version = lineage.builder.find("overproof");
    event.version = version == lineage.builder.end() ? "unknown" : version->second;
    for (const auto& [slot, input] : lineage.inputs) {
      const ArtifactFacts* parent = facts.parent(a, slot);
      const std::string run = node.path.parent_path().filename().string();
      event.inputs.push_back({parent ? openlineage_name(facts.node(*parent).path) : run + "/" + input.name,
                              "sha256:" + input.root.hex(), parent ? facts.lineage(*parent).kind : "", -1, -1});
    }
    for (const char* type : {"START", "COMPLETE"}) {
      event.type = type;
      if (event.type == "COMPLETE")
        event.outputs = {{name, "sha256:" + lineage.root.hex(), lineage.kind, a.bytes, int64_t(lineage.files.size())}};
      events.push_back(openlineage_event(event));
      text += printable_json(dump_text(events.back())) + "\n";
    }
  }
  return deliver(text, std::move(events), config.document.out);
}

}  // namespace overproof
