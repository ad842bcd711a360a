#include "audit/facts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "audit/corpus_check.h"
#include "core/checked.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "core/printable.h"
#include "provenance/oms.h"
#include "provenance/signers.h"
#include "records/evaluation.h"
#include "records/evidence.h"

namespace overproof {
namespace {

constexpr size_t kMostRecords = 1000;

std::string config_text(const Lineage& lineage, const char* key) {
  const auto found = lineage.config.find(key);
  return found != lineage.config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

int64_t saturating_add(int64_t a, int64_t b) { return checked_add(a, b).value_or(INT64_MAX); }

Tally tally_of(const JsonObject& row) {
  const auto count = [&](const char* name) { return row.integer(name, 0, kMostCount, 0); };
  return {count("documents"), count("bytes"), count("tokens")};
}

/// A finite number; nothing where it is missing or null, as JSON writes a NaN.
std::optional<double> optional_number(const JsonObject& object, const char* name) {
  const Json* value = object.find(name);
  return value && !value->is_null() ? std::optional(object.number(name)) : std::nullopt;
}

bool lists_file(const Lineage& lineage, std::string_view name) {
  return std::ranges::any_of(lineage.files, [&](const FileRecord& f) { return f.name == name; });
}

EvaluationFacts evaluation_facts(const ArtifactNode& node) {
  EvaluationFacts facts;
  const auto text = sealed_text(node, kEvaluationFile);
  if (!text) return facts;
  const Evaluation evaluation = parse_evaluation(*text, node.path / kEvaluationFile);
  const auto as_number = [](std::optional<int64_t> count) { return count ? std::optional(double(*count)) : std::nullopt; };
  facts.tokens = as_number(evaluation.tokens);
  facts.repetition_penalty = evaluation.repetition_penalty;
  for (const EvaluationRow& row : evaluation.rows)
    facts.models.push_back({row.name, -1, row.perplexity, row.kl_mean, row.kl_p99, row.top1_agreement, row.ffn_activation,
                            row.parameter_activation, as_number(row.bytes), as_number(row.parameters), as_number(row.bytes_per_token),
                            row.loops, row.loops_penalised, row.calibration_error, row.tasks});
  return facts;
}

std::string architecture_of(const ArtifactNode& node) {
  const Lineage& lineage = *node.lineage();
  if (lineage.metrics.contains("model_type") && lineage.metrics["model_type"].is_string())
    return lineage.metrics["model_type"].get<std::string>();
  const auto text = sealed_text(node, "config.json", int64_t{16} << 20);
  if (!text) return {};
  const Json config = parse_python_json(*text, node.path / "config.json");
  return JsonObject(config, node.path / "config.json").text("model_type", "");
}

ArtifactFacts facts_of(const ArtifactNode& node, int index) {
  ArtifactFacts a;
  a.node = index;
  a.name = a.title = node.name;
  const Lineage& lineage = *node.lineage();
  for (const FileRecord& file : lineage.files) a.bytes = saturating_add(a.bytes, std::max<int64_t>(file.bytes, 0));
  if (node.check.foreign) return a;
  a.kind = &lineage_kind(lineage.kind);
  a.role = a.kind->role;
  if (a.kind->origin == Origin::outside) {
    a.license = config_text(lineage, "license");
    const JsonObject recorded(lineage.metrics, node.path / kClaimsName, "metrics");
    if (a.license.empty()) a.license = recorded.text("stated_license", "");
    if (const std::string title = config_text(lineage, "name"); !title.empty()) a.title = title;
  }
  const JsonObject metrics(lineage.metrics, node.path / kClaimsName, "metrics");
  if (a.role == Role::corpus) a.corpus = corpus_facts(node);
  if (a.role == Role::evaluation) {
    if (lists_file(lineage, kArenaFile)) a.arena = parse_arena(sealed_text(node, kArenaFile).value(), node.path / kArenaFile);
    else a.evaluation = evaluation_facts(node);
  }
  if (a.role == Role::model) {
    a.architecture = architecture_of(node);
    a.ffn_activation = optional_number(metrics, "ffn_activation");
    a.parameters = optional_number(metrics, "parameters");
  }
  if (a.role == Role::targets) {
    a.order_beacon = config_text(lineage, "order-beacon");
    a.recorded = metrics.has("evidence") && metrics.text("evidence") == evidence_name(Evidence::recorded);
    for (const auto& [name, into] : {std::pair{"tokens", &a.taught_tokens}, std::pair{"windows", &a.taught_windows}})
      if (metrics.has(name)) *into = metrics.integer(name, 0, kMostCount);
  }
  if (const auto policy = metrics.find_object("policy"))
    for (const JsonObject& item : policy->objects_or_empty("items"))
      if (item.text("state", "") == "acknowledged") a.acknowledged.push_back(item.text("name"));
  return a;
}

/// What follows from all artifacts together: inputs, ends, builders, and the measurements of the models in evaluations' slots.
void connect(LineageFacts& facts) {
  std::vector<int> index_of(facts.run.nodes.size(), -1);
  for (size_t i = 0; i < facts.artifacts.size(); ++i) index_of[size_t(facts.artifacts[i].node)] = int(i);
  std::set<int> used, carried_on;
  for (ArtifactFacts& a : facts.artifacts) {
    const ArtifactNode& node = facts.node(a);
    for (const auto& [slot, parent] : node.parents) {
      const Dependency& input = node.lineage()->inputs.at(slot);
      a.inputs.push_back({slot, parent < 0 ? input.name : facts.run.nodes[size_t(parent)].name, input.root,
                          parent < 0 ? -1 : index_of[size_t(parent)], only_measures(*node.lineage(), slot)});
      if (parent < 0 || a.role == Role::evaluation) continue;
      used.insert(parent);
      if (a.role == Role::model && a.kind->entry(slot) == Entry::inherited) carried_on.insert(parent);
    }
    for (const auto& [name, version] : node.lineage()->builder) facts.builders[name].insert(version);
  }
  // Statistics of a model and what learned from its outputs do not replace it: it may still be what is passed on.
  for (ArtifactFacts& a : facts.artifacts) {
    const bool made_here = a.role == Role::model && a.kind && a.kind->origin == Origin::inputs;
    a.is_end = !(made_here ? carried_on : used).contains(a.node);
  }
  for (ArtifactFacts& a : facts.artifacts) {
    if (!a.evaluation) continue;
    for (EvaluatedModel& model : a.evaluation->models) {
      const auto input = std::ranges::find(a.inputs, model.name, &InputFacts::slot);
      if (input == a.inputs.end() || input->artifact < 0) continue;
      model.artifact = input->artifact;
      model.bound = facts.artifacts[size_t(input->artifact)].name;
      for (const auto& [name, value] :
           {std::pair{"perplexity", &model.perplexity}, std::pair{"kl_mean", &model.kl_mean}, std::pair{"kl_p99", &model.kl_p99},
            std::pair{"top1_agreement", &model.top1_agreement}, std::pair{"ffn_activation", &model.ffn_activation},
            std::pair{"parameter_activation", &model.parameter_activation}})
        if (*value) facts.artifacts[size_t(model.artifact)].measured.push_back({name, fmt::format("{}", **value)});
    }
  }
}

AuditFacts audit_facts(const fs::path& file, const RunFolder& run) {
  AuditFacts facts;
  facts.file = file.filename().string();
  try {
    facts.record = read_audit_record(file, nullptr);
  } catch (const FormatError& e) {
    // The message names the whole path, which is of this machine.
    facts.unreadable = e.what();
    if (const size_t at = facts.unreadable.find(file.string()); at != std::string::npos)
      facts.unreadable.replace(at, file.string().size(), facts.file);
    return facts;
  }
  for (const AuditSubject& subject : facts.record.subjects) {
    std::string why;
    const ArtifactNode* node = examined_artifact(run, subject, why);
    facts.here.push_back(node ? node->name : "");
    if (!node) facts.not_here += (facts.not_here.empty() ? "" : "; ") + why;
  }
  return facts;
}

void collect_audits(LineageFacts& facts) {
  const RunFolder& run = facts.run;
  std::vector<fs::path> files = audit_record_files((run.single ? run.path.parent_path() : run.path) / kAuditFolder);
  if (files.size() > kMostRecords) {
    facts.audits_not_read = int64_t(files.size() - kMostRecords);
    files.resize(kMostRecords);
  }
  for (const fs::path& file : files) {
    throw_if_interrupted();
    facts.audits.push_back(audit_facts(file, run));
  }
}

void walk(const LineageFacts& facts, const std::vector<int>& index_of, const ArtifactNode& node, Way way,
          std::vector<std::set<Way>>& ways) {
  const LineageKind* kind = node.kind();
  if (!kind) return;
  for (const auto& [slot, parent] : node.parents) {
    if (parent < 0) continue;
    if (only_measures(*node.lineage(), slot)) continue;
    const auto next = way_through(*kind, slot, way);
    const int index = index_of[size_t(parent)];
    if (!next || index < 0 || !ways[size_t(index)].insert(*next).second) continue;  // been there that way: ends cycles, too
    walk(facts, index_of, facts.run.nodes[size_t(parent)], *next, ways);
  }
}

}  // namespace

std::string option_text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void Tally::add(const Tally& other) {
  documents = saturating_add(documents, other.documents);
  bytes = saturating_add(bytes, other.bytes);
  tokens = saturating_add(tokens, other.tokens);
}

CorpusFacts corpus_facts(const ArtifactNode& node) {
  CorpusFacts facts;
  facts.committed = lists_file(*node.lineage(), "commitment.json");
  const auto text = sealed_text(node, "licenses.json");
  if (!text) return facts;
  const fs::path origin = node.path / "licenses.json";
  const Json json = parse_json(*text, origin);
  const JsonObject table(json, origin);
  if (const auto licenses = table.find_object("licenses"))
    for (const auto& [name, value] : licenses->json().items()) {
      facts.licenses.push_back({name, parse_license(name), tally_of(licenses->object(name))});
      facts.total.add(facts.licenses.back().count);
    }
  if (const auto sources = table.find_object("sources"))
    for (const auto& [name, value] : sources->json().items()) facts.sources.push_back({name, tally_of(sources->object(name))});
  return facts;
}

const ArtifactFacts* LineageFacts::parent(const ArtifactFacts& a, const std::string& slot) const {
  const auto input = std::ranges::find(a.inputs, slot, &InputFacts::slot);
  return input == a.inputs.end() || input->artifact < 0 ? nullptr : &artifacts[size_t(input->artifact)];
}

std::vector<const InputFacts*> ArtifactFacts::entering(Entry entry) const {
  std::vector<const InputFacts*> found;
  for (const InputFacts& input : inputs)
    if (kind && (input.only_measures ? Entry::nothing : kind->entry(input.slot)) == entry) found.push_back(&input);
  return found;
}

bool LineageFacts::taught_by(const ArtifactFacts& a, const ArtifactFacts& model) const {
  return std::ranges::any_of(a.entering(Entry::outputs), [&](const InputFacts* input) { return artifact(*input) == &model; });
}

const ArtifactFacts* LineageFacts::find(std::string_view name) const {
  const auto found = std::ranges::find(artifacts, name, &ArtifactFacts::name);
  return found == artifacts.end() ? nullptr : &*found;
}

std::vector<const ArtifactFacts*> LineageFacts::ends() const {
  if (subject >= 0) return {&artifacts[size_t(subject)]};
  std::vector<const ArtifactFacts*> list;
  for (const ArtifactFacts& a : artifacts)
    if (a.is_end) list.push_back(&a);
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

void require_license_sums(const LineageFacts& facts) {
  for (const ArtifactFacts& a : facts.artifacts)
    if (a.role == Role::corpus) require_license_sums(facts.node(a));
}

LineageFacts collect_facts(const fs::path& folder, const PublicKey* trusted, const FactsOptions& options) {
  RunFolder run = load_run(folder, options.verify, trusted);
  if (!options.tolerate_faults) require_one_signer(run, trusted);
  return collect_facts(std::move(run), options);
}

LineageFacts collect_facts(RunFolder run, const FactsOptions& options) {
  LineageFacts facts;
  facts.run = std::move(run);
  for (size_t i = 0; i < facts.run.nodes.size(); ++i) {
    const ArtifactNode& node = facts.run.nodes[i];
    const bool asked = facts.run.single && node.path == facts.run.path;
    try {
      if (!node.check.faults.empty() || !node.lineage()) throw ProvenanceError(does_not_hold(node));
      facts.artifacts.push_back(facts_of(node, int(i)));
    } catch (const Error& e) {
      throw_if_interrupted();
      if (!options.tolerate_faults || (asked && !options.tolerate_subject)) throw;
      facts.left_out.push_back({int(i), e.what()});
      continue;
    }
    if (asked) facts.subject = int(facts.artifacts.size()) - 1;
  }
  connect(facts);
  if (options.audits) collect_audits(facts);
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

fs::path outside_artifacts(const fs::path& out) {
  const fs::path file = fs::weakly_canonical(fs::absolute(out));
  for (fs::path folder = file.parent_path(); folder.has_relative_path(); folder = folder.parent_path())
    if (fs::exists(folder / kClaimsName) || fs::exists(folder / kModelSignatureName))
      throw UsageError(fmt::format("{}: is inside the artifact '{}', whose seal it would break; name a place outside it", out.string(),
                                   folder.filename().string()));
  return file;
}

Answer deliver(const std::string& text, Json json, const fs::path& out) {
  if (out.empty()) return {std::move(json), text + (text.ends_with('\n') ? "" : "\n")};
  const fs::path file = outside_artifacts(out);
  if (!fs::is_directory(file.parent_path())) throw IoError(file.parent_path(), "is no folder to write to", ENOENT);
  write_file_atomically(file, text);
  return {{{"out", out.string()}, {"bytes", text.size()}}, fmt::format("{}: {} bytes\n", printable(out.string()), text.size())};
}

}  // namespace overproof
