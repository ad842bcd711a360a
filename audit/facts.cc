#include "audit/facts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <ostream>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

std::string config_text(const Lineage& lineage, const char* key) {
  const auto found = lineage.config.find(key);
  return found != lineage.config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

int64_t count(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned()
             ? int64_t(std::min<uint64_t>(found->get<uint64_t>(), uint64_t(INT64_MAX) / 4096))
             : 0;
}

Tally tally_of(const Json& object) {
  if (!object.is_object()) return {};
  return {count(object, "documents"), count(object, "bytes"), count(object, "tokens")};
}

CorpusFacts corpus_facts(const ArtifactNode& node) {
  CorpusFacts facts;
  const auto text = sealed_text(node, "licenses.json");
  if (!text) return facts;
  const fs::path origin = node.path / "licenses.json";
  const Json json = parse_json(*text, origin);
  const auto member = [&](const char* name) -> const Json& {
    static const Json nothing = Json::object();
    if (!json.is_object() || !json.contains(name)) return nothing;
    if (!json[name].is_object()) throw FormatError(origin, -1, fmt::format("'{}' is no object", name));
    return json[name];
  };
  for (const auto& [name, value] : member("licenses").items()) {
    facts.licenses.push_back({name, parse_license(name), tally_of(value)});
    const Tally& t = facts.licenses.back().count;
    facts.total.documents += t.documents, facts.total.bytes += t.bytes, facts.total.tokens += t.tokens;
  }
  for (const auto& [name, value] : member("sources").items()) facts.sources.push_back({name, tally_of(value)});
  return facts;
}

std::string architecture_of(const ArtifactNode& node) {
  const Lineage& lineage = *node.lineage();
  if (lineage.metrics.contains("model_type") && lineage.metrics["model_type"].is_string())
    return lineage.metrics["model_type"].get<std::string>();
  const auto text = sealed_text(node, "config.json", int64_t{16} << 20);
  if (!text) return {};
  const Json config = parse_json(*text, node.path / "config.json");
  return config.is_object() && config.contains("model_type") && config["model_type"].is_string()
             ? config["model_type"].get<std::string>()
             : "";
}

/// What an evaluation says of the models that its slots name.
void spread_measurements(LineageFacts& facts) {
  for (const ArtifactFacts& evaluation : facts.artifacts) {
    if (evaluation.role != Role::evaluation) continue;
    const ArtifactNode& node = facts.node(evaluation);
    const auto text = sealed_text(node, "evaluation.json");
    if (!text) continue;
    const Json json = parse_json(*text, node.path / "evaluation.json");
    if (!json.is_object() || !json.contains("models") || !json["models"].is_array()) continue;
    for (const Json& model : json["models"]) {
      if (!model.is_object() || !model.contains("name") || !model["name"].is_string()) continue;
      const auto parent = node.parents.find(model["name"].get<std::string>());
      if (parent == node.parents.end() || parent->second < 0) continue;
      for (ArtifactFacts& a : facts.artifacts)
        if (a.node == parent->second)
          for (const char* metric :
               {"perplexity", "kl_mean", "kl_p99", "top1_agreement", "ffn_activation", "parameter_activation"})
            if (model.contains(metric) && model[metric].is_number() && std::isfinite(model[metric].get<double>()))
              a.measured.push_back({metric, model[metric].dump()});
    }
  }
}

ArtifactFacts facts_of(const ArtifactNode& node, int index) {
  ArtifactFacts a;
  a.node = index;
  a.name = a.title = node.name;
  const Lineage& lineage = *node.lineage();
  if (node.check.foreign) return a;
  a.kind = &lineage_kind(lineage.kind);
  a.role = a.kind->role;
  for (const FileRecord& file : lineage.files) a.bytes += std::max<int64_t>(file.bytes, 0);
  if (a.kind->origin == Origin::outside) {
    a.license = config_text(lineage, "license");
    if (const std::string title = config_text(lineage, "name"); !title.empty()) a.title = title;
  }
  if (a.role == Role::corpus) a.corpus = corpus_facts(node);
  if (a.role == Role::model) a.architecture = architecture_of(node);
  return a;
}

void walk(const LineageFacts& facts, const std::vector<int>& index_of, const ArtifactNode& node, Way way,
          std::vector<std::set<Way>>& ways) {
  const LineageKind* kind = node.kind();
  if (!kind) return;
  for (const auto& [slot, parent] : node.parents) {
    if (parent < 0) continue;
    const auto next = way_through(*kind, slot, way);
    const int index = index_of[size_t(parent)];
    if (!next || index < 0 || !ways[size_t(index)].insert(*next).second) continue;  // been there that way: ends cycles, too
    walk(facts, index_of, facts.run.nodes[size_t(parent)], *next, ways);
  }
}

}  // namespace

const ArtifactFacts* LineageFacts::parent(const ArtifactFacts& a, const std::string& slot) const {
  const auto found = node(a).parents.find(slot);
  if (found == node(a).parents.end() || found->second < 0) return nullptr;
  for (const ArtifactFacts& other : artifacts)
    if (other.node == found->second) return &other;
  return nullptr;
}

std::vector<const ArtifactFacts*> LineageFacts::ends() const {
  if (subject >= 0) return {&artifacts[size_t(subject)]};
  std::set<int> used;
  for (const ArtifactFacts& a : artifacts)
    if (a.role != Role::evaluation)  // measuring a model makes nothing of it
      for (const auto& [slot, parent] : node(a).parents) used.insert(parent);
  std::vector<const ArtifactFacts*> list;
  for (const ArtifactFacts& a : artifacts)
    if (!used.contains(a.node)) list.push_back(&a);
  return list;
}

std::string LineageFacts::title() const { return subject >= 0 ? artifacts[size_t(subject)].title : run.path.filename().string(); }

std::vector<std::set<Way>> ways_into(const LineageFacts& facts, const ArtifactFacts& of) {
  std::vector<int> index_of(facts.run.nodes.size(), -1);
  for (size_t i = 0; i < facts.artifacts.size(); ++i) index_of[size_t(facts.artifacts[i].node)] = int(i);
  std::vector<std::set<Way>> ways(facts.artifacts.size());
  walk(facts, index_of, facts.node(of), Way::weights, ways);
  ways[size_t(index_of[size_t(of.node)])].clear();
  return ways;
}

bool ancestors_missing(const LineageFacts& facts, const ArtifactFacts& of) {
  std::set<int> here;
  for (const ArtifactFacts& a : facts.artifacts)
    if (a.role != Role::unknown) here.insert(a.node);
  for (const int i : facts.run.ancestors_of(of.node)) {
    if (!here.contains(i)) return true;
    for (const auto& [slot, parent] : facts.run.nodes[size_t(i)].parents)
      if (parent < 0) return true;
  }
  return false;
}

std::string does_not_hold(const ArtifactNode& node) {
  const Fault fault = node.check.faults.empty() ? Fault{"", "has no lineage", ""} : node.check.faults.front();
  return fmt::format("{}: does not hold ({}{}{}); run 'overproof audit verify' first", node.path.string(), fault.file,
                     fault.file.empty() ? "" : " ", fault.what);
}

LineageFacts collect_facts(const fs::path& folder, const PublicKey* trusted, const FactsOptions& options) {
  LineageFacts facts;
  facts.run = load_run(folder, options.verify, trusted);
  for (size_t i = 0; i < facts.run.nodes.size(); ++i) {
    const ArtifactNode& node = facts.run.nodes[i];
    const bool asked = facts.run.single && node.path == facts.run.path;
    if (!node.check.faults.empty() || !node.lineage()) {
      if (options.tolerate_faults && !asked) continue;
      throw ProvenanceError(does_not_hold(node));
    }
    try {
      facts.artifacts.push_back(facts_of(node, int(i)));
    } catch (const Error&) {
      throw_if_interrupted();
      if (!options.tolerate_faults || asked) throw;  // else an ancestor whose files are gone or changed: it is not here
      continue;
    }
    if (asked) facts.subject = int(facts.artifacts.size()) - 1;
  }
  if (!facts.run.cyclic.empty())
    throw ProvenanceError(
        fmt::format("{}: '{}' is its own ancestor, or was made from one that is; run 'overproof audit verify' first",
                    facts.run.path.string(), facts.run.nodes[size_t(facts.run.cyclic.front())].name));
  if (!options.tolerate_faults) spread_measurements(facts);
  return facts;
}

std::optional<std::string> sealed_text(const ArtifactNode& node, std::string_view name, int64_t max_bytes) {
  if (!node.lineage()) return std::nullopt;
  for (const FileRecord& file : node.lineage()->files) {
    if (file.name != name) continue;
    const fs::path path = node.path / file.name;
    std::string text = read_file(path, max_bytes);
    if (sha256(text) != file.digest)
      throw ProvenanceError(
          fmt::format("{}: is not the file that was signed; run 'overproof audit verify' first", path.string()));
    return text;
  }
  return std::nullopt;
}

std::optional<std::string> document_time(const std::string& given) {
  if (!given.empty()) {
    static constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:ddZ";
    bool good = given.size() == kForm.size();
    for (size_t i = 0; good && i < kForm.size(); ++i)
      good = kForm[i] == 'd' ? given[i] >= '0' && given[i] <= '9' : given[i] == kForm[i];
    const auto number = [&](size_t at) { return (given[at] - '0') * 10 + given[at + 1] - '0'; };
    static constexpr std::array kDays = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    good = good && number(5) >= 1 && number(5) <= 12 && number(8) >= 1 && number(8) <= kDays[size_t(number(5) - 1)] &&
           number(11) < 24 && number(14) < 60 && number(17) < 60;
    if (!good) throw UsageError(fmt::format("'{}' is no time such as 2026-11-24T12:00:00Z (UTC)", given.substr(0, 80)));
    return given;
  }
  const char* epoch = std::getenv("SOURCE_DATE_EPOCH");
  if (!epoch || !*epoch) return std::nullopt;
  const std::string_view text = epoch;
  int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 0 || seconds > 253402300799)
    throw UsageError(fmt::format("$SOURCE_DATE_EPOCH is '{}', not seconds since 1970", text.substr(0, 80)));
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time_t(seconds)));
}

std::string uuid_of(const Digest& digest) {
  std::string hex = digest.hex().substr(0, 32);
  hex[12] = '8';  // version: made out of a digest
  hex[16] = "89ab"[(digest.bytes[8] >> 4) & 3];
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4), hex.substr(20));
}

std::string url_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
                       c == '_' || c == '~';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", uint8_t(c));
  }
  return out;
}

void deliver(const std::string& text, const std::string& out_file, bool json, std::ostream& out) {
  if (out_file.empty()) {
    out << text;
    if (!text.ends_with('\n')) out << '\n';
    return;
  }
  const fs::path file = fs::weakly_canonical(fs::absolute(out_file));
  for (fs::path folder = file.parent_path(); folder.has_relative_path(); folder = folder.parent_path())
    if (fs::exists(folder / kClaimsName) || fs::exists(folder / kModelSignatureName))
      throw UsageError(fmt::format("{}: stands in the artifact '{}', whose seal it would break; name a place beside it", out_file,
                                   folder.filename().string()));
  if (!fs::is_directory(file.parent_path())) throw IoError(file.parent_path(), "is no folder to write to", ENOENT);
  write_file_atomically(file, text);
  if (json)
    out << Json{{"out", out_file}, {"bytes", fs::file_size(file)}}.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else out << fmt::format("{}: {} bytes\n", printable(out_file), fs::file_size(file));
}

}  // namespace overproof
