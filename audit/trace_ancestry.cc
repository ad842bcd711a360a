#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "audit/corpus_check.h"
#include "audit/facts.h"
#include "audit/reached.h"
#include "audit/trace.h"
#include "core/config.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"

namespace overproof {
namespace {

using Counts = std::map<std::string, TracedLicense>;

/// From the corpus's own table by licence (data/corpus.h).
void add_licenses(const ArtifactNode& corpus, Counts& counts) {
  require_license_sums(corpus);
  for (const LicenseCount& row : corpus_facts(corpus).licenses) {
    TracedLicense& count = counts[row.recorded];
    Tally sum{count.documents, count.bytes, 0};
    sum.add(row.count);
    count.documents = sum.documents, count.bytes = sum.bytes;
  }
}

}  // namespace

AncestryTrace trace_ancestry(const fs::path& folder, const TraceConfig& config) {
  const RunFolder run = load_sound_run(folder, config.verify, config.trust);
  int self = -1;
  std::vector<std::string> names;
  for (size_t i = 0; i < run.nodes.size(); ++i) {
    names.push_back(run.nodes[i].name);
    if (run.nodes[i].name == config.artifact) self = int(i);
  }
  if (self < 0) {
    const std::string near = nearest(config.artifact, names);
    throw UsageError(
        fmt::format("no artifact '{}' here{}", config.artifact, near.empty() ? "" : "; did you mean '" + near + "'?"));
  }
  AncestryTrace trace;
  trace.artifact = config.artifact;
  const std::vector<int> family = run.ancestors_of(self);
  Counts counts;
  for (const int i : family) {
    const ArtifactNode& node = run.nodes[size_t(i)];
    if (!node.lineage()) continue;
    const LineageKind* kind = node.kind();
    Ancestor ancestor{node.name, node.lineage()->kind, node.lineage()->root, {}};
    for (const auto& [slot, parent] : node.parents) {
      if (parent >= 0) ancestor.made_from.push_back(run.nodes[size_t(parent)].name);
      else ancestor.made_from.push_back(node.lineage()->inputs.at(slot).name + " (not here)"), trace.complete = false;
    }
    trace.ancestors.push_back(std::move(ancestor));
    if (kind && kind->origin == Origin::outside) {
      const Json& given = node.lineage()->config;
      const bool stated =
          given.contains("license") && given["license"].is_string() && !given["license"].get<std::string>().empty();
      trace.models.emplace_back(node.name, stated ? given["license"].get<std::string>() : "not stated");
    }
    if (kind && kind->role == Role::corpus) {
      add_licenses(node, counts);
      if (config.reached)
        for (const auto& [license, reached] : documents_reached(run, family, node)) counts[license].reached += reached;
    }
  }
  for (auto& [name, count] : counts) {
    count.license = name;
    trace.licenses.push_back(count);
  }
  std::ranges::stable_sort(trace.licenses,
                           [](const TracedLicense& a, const TracedLicense& b) { return a.documents > b.documents; });
  return trace;
}

Json to_json(const AncestryTrace& t, bool reached) {
  Json json = {{"artifact", t.artifact},
               {"complete", t.complete},
               {"ancestors", Json::array()},
               {"models", Json::array()},
               {"licenses", Json::array()}};
  for (const Ancestor& a : t.ancestors)
    json["ancestors"].push_back(
        {{"artifact", a.artifact}, {"kind", a.kind}, {"root", "sha256:" + a.root.hex()}, {"made_from", a.made_from}});
  for (const auto& [artifact, license] : t.models) json["models"].push_back({{"artifact", artifact}, {"license", license}});
  for (const TracedLicense& l : t.licenses) {
    Json row = {{"license", l.license}, {"documents", l.documents}, {"bytes", l.bytes}};
    if (reached) row["documents_reached"] = l.reached;
    json["licenses"].push_back(std::move(row));
  }
  return json;
}

std::string text_of(const AncestryTrace& t, bool reached) {
  std::string out;
  out += fmt::format("{}: made of {} artifacts, {} imported models and documents under {} licences\n", printable(t.artifact),
                     t.ancestors.size() - 1, t.models.size(), t.licenses.size());
  for (const Ancestor& a : t.ancestors)
    out += fmt::format(
        "  {} ({}){}\n", printable(a.artifact), a.kind,
        a.made_from.empty() ? "" : fmt::format(" from {}", printable(fmt::format("{}", fmt::join(a.made_from, ", ")))));
  for (const auto& [artifact, license] : t.models)
    out += fmt::format("  model      {}: {}\n", printable(artifact), printable(license));
  for (const TracedLicense& l : t.licenses)
    out += fmt::format("  documents  {}: {} ({} bytes){}\n", printable(l.license), l.documents, l.bytes,
                       reached ? fmt::format(", {} of them reached by training", l.reached) : "");
  if (!t.complete) out += "  Something it was made from is not here, so there may be more.\n";
  return out;
}

}  // namespace overproof
