#include "audit/croissant.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/progress_note.h"
#include "data/corpus.h"
#include "data/texts_file.h"

namespace overproof {
namespace {

/// The context that the specification prescribes, and PROV-O's prefix.
Json context() {
  return {{"@language", "en"},
          {"@vocab", "https://schema.org/"},
          {"arrayShape", "cr:arrayShape"},
          {"citeAs", "cr:citeAs"},
          {"column", "cr:column"},
          {"conformsTo", "dct:conformsTo"},
          {"containedIn", "cr:containedIn"},
          {"cr", "http://mlcommons.org/croissant/"},
          {"data", {{"@id", "cr:data"}, {"@type", "@json"}}},
          {"dataType", {{"@id", "cr:dataType"}, {"@type", "@vocab"}}},
          {"dct", "http://purl.org/dc/terms/"},
          {"description", {{"@container", "@language"}}},
          {"equivalentProperty", "cr:equivalentProperty"},
          {"examples", {{"@id", "cr:examples"}, {"@type", "@json"}}},
          {"extract", "cr:extract"},
          {"field", "cr:field"},
          {"fileObject", "cr:fileObject"},
          {"fileProperty", "cr:fileProperty"},
          {"fileSet", "cr:fileSet"},
          {"format", "cr:format"},
          {"includes", "cr:includes"},
          {"isArray", "cr:isArray"},
          {"isLiveDataset", "cr:isLiveDataset"},
          {"jsonPath", "cr:jsonPath"},
          {"key", "cr:key"},
          {"md5", "cr:md5"},
          {"name", {{"@container", "@language"}}},
          {"parentField", "cr:parentField"},
          {"path", "cr:path"},
          {"prov", "http://www.w3.org/ns/prov#"},
          {"rai", "http://mlcommons.org/croissant/RAI/"},
          {"recordSet", "cr:recordSet"},
          {"references", "cr:references"},
          {"regex", "cr:regex"},
          {"repeated", "cr:repeated"},
          {"replace", "cr:replace"},
          {"samplingRate", "cr:samplingRate"},
          {"sc", "https://schema.org/"},
          {"separator", "cr:separator"},
          {"source", "cr:source"},
          {"subField", "cr:subField"},
          {"transform", "cr:transform"}};
}

std::string encoding_of(std::string_view name) {
  if (name.ends_with(".jsonl")) return "application/jsonlines";
  return name.ends_with(".json") ? "application/json" : "application/octet-stream";
}

struct FieldSpec {
  const char *name, *type, *meaning;
};
constexpr FieldSpec kDocumentFields[] = {
    {"digest", "sc:Text", "SHA-256 of the document's UTF-8 text"},
    {"name", "sc:Text", "the document's name, unique in the corpus"},
    {"source", "sc:Text", "where it comes from, as recorded"},
    {"license", "sc:Text", "its licence, as recorded"},
    {"license_rule", "sc:Text", "how the licence was found"},
    {"bytes", "sc:Integer", "length of the text in bytes"},
    {"split", "sc:Text", "train or held_out"},
    {"first_token", "sc:Integer", "its first token in the stream of its split"},
    {"tokens", "sc:Integer", "how many tokens it has, with the separator"},
};
constexpr FieldSpec kTextFields[] = {
    {"name", "sc:Text", "the document's name"},
    {"digest", "sc:Text", "SHA-256 of the text"},
    {"text", "sc:Text", "the text"},
};

Json record_set(const std::string& id, const std::string& file, std::span<const FieldSpec> specs,
                const std::string& description) {
  Json fields = Json::array();
  for (const FieldSpec& f : specs)
    fields.push_back({{"@type", "cr:Field"},
                      {"@id", id + "/" + f.name},
                      {"name", f.name},
                      {"description", f.meaning},
                      {"dataType", f.type},
                      {"source", {{"fileObject", {{"@id", file}}}, {"extract", {{"column", f.name}}}}}});
  return {{"@type", "cr:RecordSet"},          {"@id", id},      {"name", id}, {"description", description},
          {"key", {{"@id", id + "/digest"}}}, {"field", fields}};
}

std::string urn(const Digest& root) { return "urn:overproof:artifact:sha256:" + root.hex(); }

/// What the corpus was made from and by whom, in PROV-O.
Json activity(const LineageFacts& facts, const ArtifactFacts& corpus) {
  const Lineage& lineage = facts.lineage(corpus);
  Json used = Json::array();
  for (const auto& [slot, input] : lineage.inputs)
    used.push_back(
        {{"@id", urn(input.root)}, {"@type", "prov:Entity"}, {"prov:label", fmt::format("{} ({})", input.name, slot)}});
  std::string version = "unknown";
  if (const auto v = lineage.builder.find("overproof"); v != lineage.builder.end()) version = v->second;
  return {{"@id", "urn:overproof:stage:" + lineage.stage_key},
          {"@type", "prov:Activity"},
          {"prov:label", fmt::format("stage {}: {}", lineage.stage, lineage.config.dump())},
          {"prov:used", used},
          {"prov:wasAssociatedWith",
           {{"@id", "urn:overproof:builder:" + url_escape(version)},
            {"@type", "prov:SoftwareAgent"},
            {"prov:label", "overproof " + version}}}};
}

/// The path as a relative URL. Only what would have another meaning in one is escaped: loaders that take contentUrl for a path, as mlcroissant
/// does, and those that resolve it as a URL then find the same file wherever both can.
std::string relative_url(const std::string& path) {
  const size_t slash = path.find('/'), colon = path.find(':');
  std::string url = colon != std::string::npos && (slash == std::string::npos || colon < slash) ? "./" : "";  // no scheme
  for (const char c : path) {
    if (std::string_view("%#?\\").find(c) == std::string_view::npos && uint8_t(c) >= 0x20 && c != 0x7f) url += c;
    else url += fmt::format("%{:02X}", uint8_t(c));
  }
  return url;
}

}  // namespace

Json croissant(const LineageFacts& facts, const ArtifactFacts& corpus, const std::string& files,
               const std::optional<std::string>& time) {
  const Lineage& lineage = facts.lineage(corpus);
  Json distribution = Json::array(), record_sets = Json::array();
  std::set<std::string> listed;
  for (const FileRecord& file : lineage.files) {
    listed.insert(file.name);
    distribution.push_back({{"@type", "cr:FileObject"},
                            {"@id", file.name},
                            {"name", file.name},
                            {"contentUrl", relative_url(files + file.name)},
                            {"contentSize", fmt::format("{} B", file.bytes)},
                            {"encodingFormat", encoding_of(file.name)},
                            {"sha256", file.digest.hex()}});
  }
  if (listed.contains("documents.jsonl"))
    record_sets.push_back(
        record_set("documents", "documents.jsonl", kDocumentFields, "the documents, as both token streams hold them"));
  Json licenses = Json::array();
  std::set<std::string> said;
  if (corpus.corpus) {
    for (const SourceCount& s : corpus.corpus->sources)
      for (const std::string& file : std::set{texts_file_name(s.name), earlier_texts_file_name(s.name)})
        if (listed.contains(file))
          record_sets.push_back(
              record_set(file.substr(0, file.size() - 6), file, kTextFields, fmt::format("the texts of the source '{}'", s.name)));
    for (const LicenseCount& l : corpus.corpus->licenses) {
      const std::string url = l.license.kind == LicenseExpression::Kind::one ? license_url(l.license.id) : "";
      if (const std::string text = url.empty() ? l.license.text() : url; said.insert(text).second) licenses.push_back(text);
    }
  }
  Json derived = Json::array();
  if (lineage.config.contains("source-sha256") && lineage.config["source-sha256"].is_string())
    derived.push_back({{"@id", "urn:overproof:artifact:sha256:" + lineage.config["source-sha256"].get<std::string>()},
                       {"@type", "prov:Entity"},
                       {"prov:label", "the folder of texts that was read"}});
  for (const auto& [slot, input] : lineage.inputs)
    derived.push_back({{"@id", urn(input.root)}, {"@type", "prov:Entity"}, {"prov:label", input.name}});

  Json dataset = {
      {"@context", context()},
      {"@id", urn(lineage.root)},
      {"@type", "sc:Dataset"},
      {"conformsTo", "http://mlcommons.org/croissant/1.1"},
      {"name", corpus.title},
      {"description",
       corpus.corpus ? fmt::format("A text corpus: {} documents from {} sources, with the licence of each; identity sha256:{}.",
                                   corpus.corpus->total.documents, corpus.corpus->sources.size(), lineage.root.hex())
                     : "A text corpus."},
      {"version", "1.0.0+sha256." + lineage.root.hex()},
      {"isLiveDataset", false},
      {"distribution", distribution},
      {"recordSet", record_sets},
      {"prov:wasGeneratedBy", activity(facts, corpus)},
      {"prov:wasAttributedTo",
       {{"@id", "urn:overproof:key:" + facts.node(corpus).check.signer_hint},
        {"@type", "prov:Agent"},
        {"prov:label", "holder of the signing key " + facts.node(corpus).check.signer_hint}}}};
  if (!derived.empty()) dataset["prov:wasDerivedFrom"] = derived;
  if (!licenses.empty()) dataset["license"] = licenses;
  if (time) dataset["datePublished"] = *time;
  return dataset;
}

Answer audit_croissant(const CroissantConfig& config, const fs::path& folder) {
  const std::optional<std::string> time = config.document.time();
  const LineageFacts facts = config.document.facts(folder);
  const ArtifactFacts* corpus = nullptr;
  for (const ArtifactFacts& a : facts.artifacts) {
    if (a.role != Role::corpus || (facts.subject >= 0 && &a != &facts.artifacts[size_t(facts.subject)])) continue;
    if (corpus)
      throw UsageError(fmt::format("{}: holds two corpora, '{}' and '{}'; name one", folder.string(), corpus->name, a.name));
    corpus = &a;
  }
  if (!corpus) throw UsageError(fmt::format("{}: is no corpus and holds none", folder.string()));
  std::string files;
  if (!config.document.out.empty()) {
    const fs::path from = fs::weakly_canonical(fs::absolute(config.document.out)).parent_path();
    files = facts.node(*corpus).path.lexically_relative(from).generic_string() + "/";
  }
  if (relative_url(files) != files && !relative_url(files).starts_with("./"))
    progress_note(fmt::format("note: the path from the description to the corpus, '{}', has characters that mean something else in a URL, so "
                              "contentUrl escapes them; a loader that takes contentUrl for a path finds no file. Write the description into "
                              "the run folder, or rename the folder",
                              files));
  const Json document = croissant(facts, *corpus, files, time);
  return deliver(printable_json(document.dump(1)) + "\n", document, config.document.out);
}

}  // namespace overproof
