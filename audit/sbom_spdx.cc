#include <fmt/format.h>

#include <algorithm>

#include "audit/sbom.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr const char* kContext = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld";
constexpr const char* kCreation = "_:creation";
constexpr const char* kNoTime = "1970-01-01T00:00:00Z";

Json dictionary_entry(const std::string& key, const std::string& value) {
  return {{"type", "DictionaryEntry"}, {"key", key}, {"value", value}};
}

class SpdxDocument {
 public:
  SpdxDocument(const LineageFacts& facts, const std::optional<std::string>& time) : facts_(facts), time_(time) {
    Sha256 identity;
    for (const ArtifactFacts& a : facts.artifacts) identity.update(facts.lineage(a).root.hex() + a.name);
    base_ = "urn:overproof:spdx:" + identity.finish().hex() + ":";
  }

  Json write() {
    const std::string tool = element("Tool", "tool", {{"name", "overproof"}});
    for (const ArtifactFacts& a : facts_.artifacts) signer(facts_.node(a));
    Json creation = {{"@id", kCreation},       {"type", "CreationInfo"},
                     {"specVersion", "3.0.1"}, {"created", time_.value_or(kNoTime)},
                     {"createdBy", agents_},   {"createdUsing", {tool}}};
    if (!time_) creation["comment"] = "no statement of the run holds a time, and none was given: 1970 means that";
    for (const ArtifactFacts& a : facts_.artifacts) package(a);
    for (const ArtifactFacts& a : facts_.artifacts) relate(a);

    Json roots = Json::array();
    for (const ArtifactFacts* a : facts_.ends()) roots.push_back(package_id(*a));
    // Both profiles ask for a time of release. Without one, their classes are used, and conformance is not claimed.
    Json profiles = {"core", "software", "simpleLicensing", "build"};
    if (time_) profiles.insert(profiles.end(), {"ai", "dataset"});
    std::vector<std::string> ids;
    for (const Json& e : graph_) ids.push_back(e["spdxId"].get<std::string>());
    std::sort(ids.begin(), ids.end());
    const std::string sbom = element("software_Sbom", "sbom",
                                     {{"name", facts_.title()},
                                      {"software_sbomType", {"build"}},
                                      {"rootElement", roots},
                                      {"element", ids},
                                      {"profileConformance", profiles}});
    ids.push_back(sbom);
    element("SpdxDocument", "document",
            {{"name", facts_.title()}, {"rootElement", {sbom}}, {"element", ids}, {"profileConformance", profiles}});
    Json graph = Json::array({creation});
    for (Json& e : graph_) graph.push_back(std::move(e));
    return {{"@context", kContext}, {"@graph", graph}};
  }

 private:
  std::string element(const char* type, const std::string& name, Json fields) {
    std::string id = base_ + name;
    fields["type"] = type;
    fields["spdxId"] = id;
    fields["creationInfo"] = kCreation;
    graph_.push_back(std::move(fields));
    return id;
  }

  void relation(const std::string& from, const char* type, const std::vector<std::string>& to, bool complete = true) {
    if (to.empty()) return;
    element("Relationship", fmt::format("relationship:{}", ++relations_),
            {{"from", from}, {"relationshipType", type}, {"to", to}, {"completeness", complete ? "complete" : "incomplete"}});
  }

  /// An agent for the key that signed; who holds it is not recorded.
  std::string signer(const ArtifactNode& node) {
    const std::string& hint = node.check.signer_hint;
    const std::string name = "signer:" + (hint.empty() ? "unknown" : hint);
    const std::string id = base_ + name;
    if (std::find(agents_.begin(), agents_.end(), id) == agents_.end()) {
      agents_.push_back(id);
      element("Agent", name, {{"name", hint.empty() ? "signer not known" : "holder of the signing key " + hint}});
    }
    return id;
  }

  /// The publisher of what was imported: no name is recorded.
  std::string publisher(const ArtifactFacts& a) {
    return element("Agent", "publisher:" + url_escape(a.name), {{"name", "publisher of " + a.title + ", not recorded"}});
  }

  std::string package_id(const ArtifactFacts& a) const { return base_ + "artifact:" + url_escape(a.name); }

  void package(const ArtifactFacts& a) {
    const Lineage& lineage = facts_.lineage(a);
    const bool imported = a.kind && a.kind->origin == Origin::outside;
    const std::string by = imported ? publisher(a) : signer(facts_.node(a));
    Json p = {{"name", a.title},
              {"software_packageVersion", "sha256:" + lineage.root.hex()},
              {"suppliedBy", by},
              // No statement holds a place to get it from. SPDX requires one: the URN made of the digest.
              {"software_downloadLocation", "urn:overproof:artifact:sha256:" + lineage.root.hex()},
              {"description", fmt::format("{}; OpenSSF Model Signing root sha256:{}; {} files, {} bytes",
                                          lineage.kind.empty() ? "signed by another tool" : lineage.kind, lineage.root.hex(),
                                          lineage.files.size(), a.bytes)}};
    if (time_) p["releaseTime"] = *time_;
    const char* type = "software_Package";
    if (a.role == Role::model) {
      type = "ai_AIPackage";
      p["software_primaryPurpose"] = "model";
      p["ai_typeOfModel"] = {"transformer"};
      if (!a.architecture.empty()) p["ai_typeOfModel"].push_back(a.architecture);
      p["ai_domain"] = {"text generation"};
      p["ai_autonomyType"] = "noAssertion";
      p["ai_useSensitivePersonalInformation"] = "noAssertion";
      for (const auto& [name, value] : lineage.config.items())
        p["ai_hyperparameter"].push_back(dictionary_entry(name, option_text(value)));
      for (const Measurement& m : a.measured) p["ai_metric"].push_back(dictionary_entry(m.name, m.value));
      if (a.kind->draw == WindowDraw::targets_order)
        p["ai_informationAboutTraining"] =
            "trained on another model's answers to a corpus; the order of training follows from the corpus";
    } else if (a.role == Role::corpus || a.role == Role::targets || a.role == Role::statistics || a.role == Role::samples) {
      type = "dataset_DatasetPackage";
      p["software_primaryPurpose"] = "data";
      p["originatedBy"] = {by};
      if (time_) p["builtTime"] = *time_;
      p["dataset_hasSensitivePersonalInformation"] = "noAssertion";
      p["dataset_datasetSize"] = a.bytes;
      p["dataset_datasetType"] = {a.role == Role::corpus || a.role == Role::samples ? "text" : "numeric"};
      if (a.corpus) {
        p["dataset_dataCollectionProcess"] = "not recorded; documents carry the source and the licence that they came with";
        p["dataset_dataPreprocessing"] = {"documents with the same digest are kept once",
                                          "cut into tokens and windows of fixed length"};
        std::string sources;
        for (const SourceCount& s : a.corpus->sources)
          sources += fmt::format("{}{} ({} documents)", sources.empty() ? "" : ", ", s.name, s.count.documents);
        p["software_sourceInfo"] = fmt::format("{} documents from {}", a.corpus->total.documents, sources);
      } else if (a.role == Role::targets) {
        p["dataset_dataCollectionProcess"] = "synthetic: a model's answers to a corpus";
      } else if (a.role == Role::samples) {
        p["dataset_dataCollectionProcess"] = "synthetic: documents that a model wrote";
      } else {
        p["dataset_dataCollectionProcess"] = "observed while a model read a corpus";
      }
    } else {
      p["software_primaryPurpose"] = a.role == Role::evaluation ? "evidence" : "data";
    }
    element(type, "artifact:" + url_escape(a.name), std::move(p));

    std::vector<std::string> files;
    for (const FileRecord& file : lineage.files)
      files.push_back(element(
          "software_File", fmt::format("file:{}/{}", url_escape(a.name), url_escape(file.name)),
          {{"name", file.name},
           {"software_fileKind", "file"},
           {"verifiedUsing", Json::array({{{"type", "Hash"}, {"algorithm", "sha256"}, {"hashValue", file.digest.hex()}}})}}));
    relation(package_id(a), "contains", files);
  }

  /// An element for the licence, made once.
  std::string license(const LicenseExpression& expression) {
    const std::string text = expression.text(), name = "license:" + url_escape(text), id = base_ + name;
    if (!made_.insert(id).second) return id;
    Json fields = {{"simplelicensing_licenseExpression", text}};
    for (const std::string& one : expression.ids()) {
      if (!one.starts_with("LicenseRef-")) continue;
      const std::string text_id = base_ + "license-text:" + url_escape(one);
      fields["simplelicensing_customIdToUri"].push_back(dictionary_entry(one, text_id));
      const LicenseTerms* known = find_license(one);
      if (made_.insert(text_id).second)
        element(
            "simplelicensing_SimpleLicensingText", "license-text:" + url_escape(one),
            {{"name", known ? std::string(known->name) : one},
             {"simplelicensing_licenseText", "The text is not recorded here; it is with the source that the work came from."}});
    }
    element("simplelicensing_LicenseExpression", name, std::move(fields));
    return id;
  }

  void relate(const ArtifactFacts& a) {
    const Lineage& lineage = facts_.lineage(a);
    const std::string id = package_id(a);
    if (a.kind && a.kind->origin == Origin::outside) {
      const LicenseExpression declared = parse_license(a.license);
      if (declared.text() == "NOASSERTION")
        relation(id, "hasDeclaredLicense", {"https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertionLicense"});
      else relation(id, "hasDeclaredLicense", {license(declared)});
    }
    if (a.corpus)
      for (const LicenseCount& l : a.corpus->licenses) {
        if (l.license.text() == "NOASSERTION")
          relation(id, "hasDeclaredLicense", {"https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertionLicense"});
        else relation(id, "hasDeclaredLicense", {license(l.license)});
      }

    std::vector<std::string> inputs, trained, ancestors;
    bool complete = true;
    for (const auto& [slot, input] : lineage.inputs) {
      const ArtifactFacts* p = facts_.parent(a, slot);
      complete = complete && p;
      if (!p) continue;
      const std::string parent = package_id(*p);
      inputs.push_back(parent);
      if (a.role == Role::model && p->role == Role::model && a.kind->entry(slot) == Entry::inherited) ancestors.push_back(parent);
      if (a.kind && a.kind->trains && (p->role == Role::corpus || p->role == Role::targets)) trained.push_back(parent);
      if ((a.role == Role::targets || a.role == Role::samples) && a.kind->entry(slot) == Entry::outputs)
        relation(parent, "generates", {id});
      if (a.role == Role::evaluation && p->role == Role::model)
        for (const InputFacts& input : a.inputs)
          if (const ArtifactFacts* corpus = facts_.artifact(input); corpus && corpus->role == Role::corpus)
            relation(parent, "testedOn", {package_id(*corpus)});
    }
    relation(id, "trainedOn", trained, complete);
    relation(id, "descendantOf", ancestors, complete);
    if (lineage.kind.empty()) return;
    Json build = {{"build_buildType", "urn:overproof:stage:" + lineage.stage + ":v1"}, {"name", lineage.stage}};
    if (!lineage.stage_key.empty()) build["build_buildId"] = lineage.stage_key;
    for (const auto& [name, value] : lineage.config.items())
      build["build_parameter"].push_back(dictionary_entry(name, option_text(value)));
    for (const auto& [name, value] : lineage.builder) build["build_environment"].push_back(dictionary_entry(name, value));
    const std::string stage = element("build_Build", "build:" + url_escape(a.name), std::move(build));
    std::sort(inputs.begin(), inputs.end());
    inputs.erase(std::unique(inputs.begin(), inputs.end()), inputs.end());
    // An input that is not here leaves no element to point to.
    if (inputs.empty() && !complete) inputs = {"https://spdx.org/rdf/3.0.1/terms/Core/NoAssertionElement"};
    relation(stage, "hasInput", inputs, complete);
    relation(stage, "hasOutput", {id});
  }

  const LineageFacts& facts_;
  const std::optional<std::string>& time_;
  std::string base_;
  std::vector<Json> graph_;
  std::vector<std::string> agents_;
  std::set<std::string> made_;
  int relations_ = 0;
};

}  // namespace

Json spdx_document(const LineageFacts& facts, const std::optional<std::string>& time) { return SpdxDocument(facts, time).write(); }

}  // namespace overproof
