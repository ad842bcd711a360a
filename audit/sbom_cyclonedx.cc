#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "audit/sbom.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"

namespace overproof {
namespace {

std::string reference(const ArtifactFacts& a) { return "artifact:" + url_escape(a.name); }

Json property(std::string_view name, const std::string& value) {
  return {{"name", fmt::format("overproof:{}", name)}, {"value", value}};
}

/// One licence by its identifier; more than that as one expression, which is the only way that CycloneDX has for it.
Json license_choice(const LicenseExpression& license) {
  if (license.kind == LicenseExpression::Kind::one && license.id.empty()) return Json::array();
  if (license.kind != LicenseExpression::Kind::one)
    return Json::array({{{"expression", license.text()}, {"acknowledgement", "declared"}}});
  const LicenseTerms* known = find_license(license.id);
  Json entry = {{"acknowledgement", "declared"}};
  if (known && known->listed()) entry["id"] = license.id;
  else entry["name"] = license.id;
  return Json::array({{{"license", entry}}});
}

/// All licences of a corpus at once: who takes the corpus takes all of them. An expression has no word for documents without a known
/// licence, so with such documents each licence is a name of its own in the list.
Json corpus_licenses(const CorpusFacts& corpus) {
  LicenseExpression all{LicenseExpression::Kind::all_of, {}, {}};
  Json list = Json::array();
  bool unknown = false;
  for (const LicenseCount& l : corpus.licenses) {
    const std::string text = l.license.text();
    unknown |= text == "NOASSERTION";
    if (text != "NOASSERTION") all.members.push_back(l.license);
    if (l.license.kind == LicenseExpression::Kind::one && !l.license.id.empty()) list.push_back(license_choice(l.license)[0]);
    else list.push_back({{"license", {{"name", text}, {"acknowledgement", "declared"}}}});
  }
  if (unknown && !all.members.empty()) return list;
  return license_choice(all.members.empty() ? LicenseExpression{} : all.members.size() == 1 ? all.members.front() : all);
}

class Bom {
 public:
  explicit Bom(const LineageFacts& facts) : facts_(facts) {}

  Json write(const std::optional<std::string>& time) {
    Json components = Json::array(), dependencies = Json::array(), workflows = Json::array();
    Sha256 identity;
    for (const ArtifactFacts& a : facts_.artifacts) {
      identity.update(facts_.lineage(a).root.hex() + a.name);
      const bool subject = facts_.subject >= 0 && &a == &facts_.artifacts[size_t(facts_.subject)];
      if (!subject) components.push_back(component(a));
      dependencies.push_back(dependency(a));
      if (!facts_.node(a).check.foreign) workflows.push_back(workflow(a));
    }
    Json metadata = {{"lifecycles", Json::array({{{"phase", "build"}}})}, {"tools", {{"components", tools()}}}};
    if (time) metadata["timestamp"] = *time;
    if (facts_.subject >= 0) {
      metadata["component"] = component(facts_.artifacts[size_t(facts_.subject)]);
    } else {
      metadata["component"] = {{"type", "data"},
                               {"bom-ref", "run"},
                               {"name", facts_.title()},
                               {"description", "a run: artifacts and the statements that bind them"}};
      Json ends = Json::array();
      for (const ArtifactFacts* a : facts_.ends()) ends.push_back(reference(*a));
      dependencies.push_back({{"ref", "run"}, {"dependsOn", ends}});
    }
    Json bom = {{"$schema", "http://cyclonedx.org/schema/bom-1.6.schema.json"},
                {"bomFormat", "CycloneDX"},
                {"specVersion", "1.6"},
                {"serialNumber", "urn:uuid:" + uuid_of(identity.finish())},
                {"version", 1},
                {"metadata", metadata},
                {"components", components},
                {"dependencies", dependencies}};
    // Who counts on the list must know where it ends too early.
    if (!incomplete_.empty()) bom["compositions"] = Json::array({{{"aggregate", "incomplete"}, {"dependencies", incomplete_}}});
    if (!workflows.empty()) bom["formulation"] = Json::array({{{"bom-ref", "formulation"}, {"workflows", workflows}}});
    return bom;
  }

 private:
  /// The versions that made the artifacts, as their statements have it; not what writes this.
  Json tools() const {
    std::set<std::string> versions;
    for (const ArtifactFacts& a : facts_.artifacts)
      if (const auto v = facts_.lineage(a).builder.find("overproof"); v != facts_.lineage(a).builder.end())
        versions.insert(v->second);
    Json list = Json::array();
    for (const std::string& v : versions) list.push_back({{"type", "application"}, {"name", "overproof"}, {"version", v}});
    return list;
  }

  Json component(const ArtifactFacts& a) const {
    const Lineage& lineage = facts_.lineage(a);
    Json c = {{"type", a.role == Role::model ? "machine-learning-model" : "data"},
              {"bom-ref", reference(a)},
              {"name", a.title},
              {"version", "sha256:" + lineage.root.hex()},
              {"externalReferences", Json::array({{{"type", "attestation"},
                                                   {"url", url_escape(a.name) + "/claims.jsonl"},
                                                   {"comment", "in-toto statement in a DSSE envelope, one a line"}}})}};
    Json properties =
        Json::array({property("artifact", a.name), property("kind", lineage.kind.empty() ? "unknown" : lineage.kind),
                     property("oms-root", "sha256:" + lineage.root.hex()), property("bytes", std::to_string(a.bytes))});
    Json files = Json::array();
    for (const FileRecord& file : lineage.files)
      files.push_back({{"type", "file"},
                       {"bom-ref", reference(a) + "/" + url_escape(file.name)},
                       {"name", file.name},
                       {"hashes", Json::array({{{"alg", "SHA-256"}, {"content", file.digest.hex()}}})}});
    c["components"] = files;
    if (a.role == Role::model) {
      c["modelCard"] = model_card(a);
      if (Json parents = pedigree(a); !parents.empty()) c["pedigree"] = parents;
      if (Json l = license_choice(parse_license(a.license)); !l.empty()) c["licenses"] = l;
      if (!a.license.empty()) properties.push_back(property("license-recorded", a.license));
    } else {
      c["data"] = Json::array({data(a)});
      if (a.corpus)
        if (Json l = corpus_licenses(*a.corpus); !l.empty()) c["licenses"] = l;
    }
    c["properties"] = properties;
    return c;
  }

  Json data(const ArtifactFacts& a) const {
    Json d = {{"type", a.role == Role::corpus || a.role == Role::targets || a.role == Role::samples ? "dataset" : "other"},
              {"name", a.title}};
    Json facts = Json::array();
    if (a.corpus) {
      const CorpusFacts& corpus = *a.corpus;
      d["description"] = fmt::format("{} documents, {} bytes of text from {} sources", corpus.total.documents, corpus.total.bytes,
                                     corpus.sources.size());
      for (const LicenseCount& l : corpus.licenses)
        facts.push_back(property("license", fmt::format("{}: recorded as '{}', {} documents, {} bytes", l.license.text(),
                                                        l.recorded, l.count.documents, l.count.bytes)));
      for (const SourceCount& s : corpus.sources)
        facts.push_back(property("source", fmt::format("{}: {} documents, {} bytes", s.name, s.count.documents, s.count.bytes)));
    } else if (a.role == Role::targets) {
      std::vector<std::string> teachers;
      for (const InputFacts* input : a.entering(Entry::outputs)) {
        const ArtifactFacts* teacher = facts_.artifact(*input);
        teachers.push_back(fmt::format("'{}'", teacher ? teacher->title : input->name));
      }
      d["description"] =
          fmt::format("answers of the {} {} to the corpus: synthetic data", teachers.size() == 1 ? "model" : "models",
                      teachers.empty() ? "?" : fmt::format("{}", fmt::join(teachers, " and ")));
    } else {
      d["description"] = a.role == Role::statistics   ? "what a model's layers saw on a corpus"
                         : a.role == Role::evaluation ? "measurements of models"
                         : a.role == Role::samples    ? "documents that a model wrote"
                         : a.role == Role::index      ? "the texts of a corpus, sorted"
                                                      : "signed by another tool";
    }
    if (!facts.empty()) d["contents"] = {{"properties", facts}};
    return d;
  }

  Json model_card(const ArtifactFacts& a) const {
    Json parameters = {{"task", "text-generation"},
                       {"architectureFamily", "transformer"},
                       {"inputs", Json::array({{{"format", "text"}}})},
                       {"outputs", Json::array({{{"format", "text"}}})}};
    if (!a.architecture.empty()) parameters["modelArchitecture"] = a.architecture;
    if (a.kind && a.kind->draw == WindowDraw::targets_order) parameters["approach"] = {{"type", "supervised"}};
    Json datasets = Json::array();
    const auto ways = ways_into(facts_, a);
    for (size_t i = 0; i < facts_.artifacts.size(); ++i) {
      const ArtifactFacts& other = facts_.artifacts[i];
      if (!ways[i].empty() && (other.role == Role::corpus || other.role == Role::targets))
        datasets.push_back({{"ref", reference(other)}});
    }
    if (!datasets.empty()) parameters["datasets"] = datasets;
    Json card = {{"modelParameters", parameters}};
    Json metrics = Json::array();
    for (const Measurement& m : a.measured)
      metrics.push_back({{"type", m.name}, {"value", m.value}, {"slice", "held-out documents"}});
    if (!metrics.empty()) card["quantitativeAnalysis"] = {{"performanceMetrics", metrics}};
    return card;
  }

  /// The models that this one's weights come from; what only taught it is a dataset's ancestor.
  Json pedigree(const ArtifactFacts& a) const {
    Json ancestors = Json::array();
    const auto ways = ways_into(facts_, a);
    for (size_t i = 0; i < facts_.artifacts.size(); ++i) {
      const ArtifactFacts& other = facts_.artifacts[i];
      if (other.role == Role::model && ways[i].contains(Way::weights))
        ancestors.push_back({{"type", "machine-learning-model"},
                             {"name", other.title},
                             {"version", "sha256:" + facts_.lineage(other).root.hex()}});
    }
    if (ancestors.empty()) return Json::object();
    return {{"ancestors", ancestors},
            {"notes", fmt::format("{} by the stage '{}'", facts_.lineage(a).kind, facts_.lineage(a).stage)}};
  }

  Json dependency(const ArtifactFacts& a) {
    std::set<std::string> on;
    for (const auto& [slot, input] : facts_.lineage(a).inputs)
      if (const ArtifactFacts* p = facts_.parent(a, slot)) on.insert(reference(*p));
      else incomplete_.insert(reference(a));
    return {{"ref", reference(a)}, {"dependsOn", on}};
  }

  Json workflow(const ArtifactFacts& a) const {
    const Lineage& lineage = facts_.lineage(a);
    Json w = {{"bom-ref", "stage:" + url_escape(a.name)},
              {"uid", lineage.stage_key},
              {"name", lineage.stage},
              {"taskTypes", {"build"}},
              {"outputs", Json::array({{{"type", "artifact"}, {"resource", {{"ref", reference(a)}}}}})}};
    Json inputs = Json::array(), parameters = Json::array(), missing = Json::array();
    for (const auto& [slot, input] : lineage.inputs) {
      if (const ArtifactFacts* p = facts_.parent(a, slot))
        inputs.push_back({{"resource", {{"ref", reference(*p)}}}, {"properties", Json::array({property("slot", slot)})}});
      else missing.push_back(property("input-not-here", fmt::format("{}: {} sha256:{}", slot, input.name, input.root.hex())));
    }
    for (const auto& [name, value] : lineage.config.items()) parameters.push_back({{"name", name}, {"value", option_text(value)}});
    if (!parameters.empty()) inputs.push_back({{"parameters", parameters}});
    if (!inputs.empty()) w["inputs"] = inputs;
    if (!missing.empty()) w["properties"] = missing;
    return w;
  }

  const LineageFacts& facts_;
  std::set<std::string> incomplete_;
};

}  // namespace

Json cyclonedx_bom(const LineageFacts& facts, const std::optional<std::string>& time) { return Bom(facts).write(time); }

Answer audit_sbom(const SbomConfig& config, const fs::path& folder) {
  const std::optional<std::string> time = config.document.time();
  const LineageFacts facts = config.document.facts(folder);
  const Json document = config.format == SbomConfig::Format::spdx ? spdx_document(facts, time) : cyclonedx_bom(facts, time);
  return deliver(printable_json(document.dump(1)) + "\n", document, config.document.out);
}

}  // namespace overproof
