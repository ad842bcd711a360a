#include "audit/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "audit/content.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/key_rotation.h"
#include "provenance/outside.h"
#include "records/evidence.h"

namespace overproof {
namespace {

class Verifier {
 public:
  explicit Verifier(Verification& result) : result_(result), run_(result.run) {}

  void artifacts() {
    std::set<std::string> signers;
    for (const ArtifactNode& node : run_.nodes) {
      for (const Fault& fault : node.check.faults) fail(node.name, fault.file, fault.what, fault.remedy);
      if (!node.check.signer_hint.empty()) signers.insert(node.check.signer_hint);
      if (const Lineage* lineage = node.lineage()) {
        result_.files += int64_t(lineage->files.size());
        for (const FileRecord& file : lineage->files) result_.bytes += std::max<int64_t>(file.bytes, 0);
      }
      if (node.check.foreign && node.check.faults.empty()) note(node.name, "is signed by another tool: its files hold, its lineage is unknown");
      if (node.check.foreign && node.check.signatures_hold)
        if (const std::vector<std::string> left_out = not_covered(node.path); !left_out.empty())
          note(node.name, fmt::format("the signature does not cover what its signer left out: {}", fmt::join(left_out, ", ")));
    }
    for (const std::string& folder : run_.unsigned_folders)
      fail(folder, "", "has no signature", "restore its claims.jsonl and model.sig, or move it elsewhere");
    result_.signers.assign(signers.begin(), signers.end());
  }

  void names() {
    for (const ArtifactNode& node : run_.nodes) {
      const Lineage* lineage = node.lineage();
      if (!lineage || node.check.foreign || lineage->name == lineage->stage || lineage->name == node.name) continue;
      const std::string what = fmt::format("is called '{}' in its statement", lineage->name);
      // A copy of one artifact may have any name; in a run, names distinguish artifacts.
      if (run_.single) note(node.name, what);
      else fail(node.name, "", what, "folders were swapped or renamed: restore their original names");
    }
  }

  void dependencies() {
    for (const ArtifactNode& node : run_.nodes)
      for (const auto& [slot, index] : node.parents) {
        const Dependency& input = node.lineage()->inputs.at(slot);
        if (index < 0 && node.is_from_outside(slot)) {
          note(node.name,
               fmt::format("was made from '{}' (as '{}', sha256:{}), files from outside that have no statement: nothing here shows "
                           "where they came from and under which licence; an artifact of 'import' would",
                           input.name, slot, input.root.hex()));
        } else if (index < 0) {
          fail(node.name, "",
               fmt::format("was made from '{}' (as '{}', sha256:{}), which is not here", input.name, slot, input.root.hex()),
               fmt::format("put the artifact '{}' back next to it", input.name));
        } else if (const std::string& found = run_.nodes[size_t(index)].name; found != input.name) {
          fail(node.name, "", fmt::format("was made from '{}', which is now in the folder '{}'", input.name, found),
               "folders were swapped or renamed: restore their original names");
        }
      }
  }

  /// What a reader may take for part of the run, and is not.
  void uncovered() {
    constexpr size_t kNamed = 8;
    const std::vector<std::string>& names = run_.loose;
    if (names.empty()) return;
    std::string list;
    for (size_t i = 0; i < std::min(names.size(), kNamed); ++i) list += (i ? ", " : "") + names[i];
    if (names.size() > kNamed) list += fmt::format(" and {} more", names.size() - kNamed);
    note("", "no signature covers " + list);
  }

  /// Files that loaders of other programs read because a file of the artifact names them, and that the signature does not cover.
  void references() {
    for (const ArtifactNode& node : run_.nodes) {
      if (!node.lineage() || !node.check.faults.empty()) continue;
      std::set<std::string> listed;
      for (const FileRecord& file : node.lineage()->files) listed.insert(file.name);
      for (const std::string& name : listed) {
        const std::string file = name.substr(name.rfind('/') + 1);
        // Variants are in the middle of the name: model.safetensors.index.fp16.json.
        if (file.ends_with(".json") && file.find(".index.") != std::string::npos) shards(node, name, listed);
        if (file.ends_with("config.json")) remote_code(node, name);
      }
    }
  }

  void formats() {
    std::string names;
    for (const ArtifactNode& node : run_.nodes)
      if (const Lineage* lineage = node.lineage(); lineage && !node.check.foreign && lineage->format < 2)
        names += (names.empty() ? "" : ", ") + node.name;
    if (!names.empty())
      note("", fmt::format("statements of format 1 ({}) name their inputs by files alone: that configuration, metrics and "
                           "inputs of their ancestors are still those of the time is not shown",
                           names));
  }

  void chains() {
    for (size_t i = 0; i < run_.nodes.size(); ++i) {
      const ArtifactNode& node = run_.nodes[i];
      const Lineage* lineage = node.lineage();
      if (!lineage || node.check.foreign) continue;
      const LineageKind& kind = lineage_kind(lineage->kind);
      bool model = false, corpus = false, gap = false;
      for (const int a : run_.ancestors_of(int(i))) {
        const ArtifactNode& ancestor = run_.nodes[size_t(a)];
        if (const LineageKind* of = ancestor.kind()) {
          model |= of->is_model() && !of->needs_model;
          corpus |= of->role == Role::corpus;
        }
        for (const auto& [slot, parent] : ancestor.parents) {
          const bool outside = parent < 0 && ancestor.is_from_outside(slot);
          model |= outside && slot != "tokenizer";
          gap |= parent < 0 && !outside;
        }
      }
      if (gap) continue;  // reported where the gap is
      if (kind.needs_model && !model)
        fail(node.name, "",
             fmt::format("is '{}', but its chain reaches no model that came from outside, from a seed or from training on a corpus alone", lineage->kind),
             "its statement is incomplete: make it again");
      if (kind.needs_corpus && !corpus)
        fail(node.name, "", fmt::format("is '{}', but its chain reaches no corpus", lineage->kind),
             "its statement is incomplete: make it again");
    }
  }

  /// What was made with recorded outputs of a teacher may not be called re-derivable.
  void evidence() {
    for (const ArtifactNode& node : run_.nodes) {
      if (!is_re_derivable(node)) continue;
      for (const std::string& slot : node.slots_of(Entry::outputs))
        if (const int parent = node.parents.at(slot);
            parent >= 0 && evidence_in(run_.nodes[size_t(parent)]) == Evidence::recorded)
          fail(node.name, "",
               fmt::format("calls its teacher's outputs re-derivable, but those in '{}' are recorded",
                           run_.nodes[size_t(parent)].name),
               "its statement is false: make it again");
    }
  }

  void contents(const CorpusSalt* salt) {
    for (const ArtifactNode& node : run_.nodes) {
      if (!node.lineage() || !node.check.faults.empty()) continue;
      const ContentCheck check = check_content(run_, node, salt);
      for (const Fault& fault : check.faults) fail(node.name, fault.file, fault.what, fault.remedy);
      for (const std::string& what : check.notes) note(node.name, what);
    }
  }

  void signers(bool trusted) {
    if (trusted || result_.signers.empty()) return;
    if (result_.signers.size() > 1)
      for (const ArtifactNode& node : run_.nodes)
        fail(node.name, "",
             fmt::format("is signed by key {}; this run has {} signers", node.check.signer_hint, result_.signers.size()),
             "give the key you trust with --public-key");
    else
      note("", fmt::format("all is signed by key {}; that it is the publisher's is shown only with --public-key",
                           result_.signers[0]));
  }

 private:
  static std::optional<Evidence> evidence_in(const ArtifactNode& node) {
    if (!node.lineage() || !node.lineage()->metrics.contains("evidence")) return std::nullopt;
    const Json& said = node.lineage()->metrics["evidence"];
    return said.is_string() ? evidence_of(said.get<std::string>()) : std::nullopt;
  }
  /// A JSON object of the artifact; null where it is none, which its readers report.
  static Json object_in(const ArtifactNode& node, const std::string& name) {
    constexpr int64_t kMostBytes = int64_t{256} << 20;
    try {
      const fs::path file = node.path / name;
      Json json = parse_json(read_file(file, kMostBytes), file);
      if (json.is_object()) return json;
    } catch (const FormatError&) {
    }
    return Json::object();
  }

  void shards(const ArtifactNode& node, const std::string& index, const std::set<std::string>& listed) {
    const Json json = object_in(node, index);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object()) return;
    std::set<std::string> missing;
    for (const auto& [tensor, shard] : map->items()) {
      if (!shard.is_string()) continue;
      const std::string name = (fs::path(index).parent_path() / shard.get<std::string>()).lexically_normal().generic_string();
      if (!listed.contains(name)) missing.insert(name);
    }
    for (const std::string& name : missing)
      fail(node.name, index, fmt::format("names the shard '{}', which no signature covers", name),
           "loaders read that file: put it among the signed ones, and make the artifact again");
  }

  void remote_code(const ArtifactNode& node, const std::string& name) {
    const Json json = object_in(node, name);
    const auto map = json.find("auto_map");
    if (map == json.end() || !map->is_object()) return;
    for (const auto& [use, code] : map->items())
      for (const Json& one : code.is_array() ? code : Json::array({code}))
        if (one.is_string() && one.get_ref<const std::string&>().find("--") != std::string::npos)
          note(node.name, fmt::format("{} names code of another repository, '{}', which no signature here covers", name, one.get<std::string>()));
  }

  static bool is_re_derivable(const ArtifactNode& node) { return evidence_in(node) == Evidence::re_derivable; }

  void fail(std::string artifact, std::string file, std::string what, std::string remedy) {
    result_.findings.push_back({Severity::failure, std::move(artifact), std::move(file), std::move(what), std::move(remedy)});
  }
  void note(std::string artifact, std::string what) {
    result_.findings.push_back({Severity::note, std::move(artifact), "", std::move(what), ""});
  }

  Verification& result_;
  const RunFolder& run_;
};

Json to_json(const Verification& v) {
  Json artifacts = Json::array(), findings = Json::array();
  for (const ArtifactNode& node : v.run.nodes) {
    Json item = {{"artifact", node.name}, {"holds", node.check.faults.empty()}};
    if (const Lineage* lineage = node.lineage()) {
      item["kind"] = lineage->kind;
      item["root"] = "sha256:" + lineage->root.hex();
      if (!node.check.foreign) item["statement"] = "sha256:" + lineage->statement.hex(), item["format"] = lineage->format;
      item["files"] = lineage->files.size();
      for (const auto& [slot, input] : lineage->inputs) item["inputs"][slot] = "sha256:" + input.root.hex();
    }
    artifacts.push_back(item);
  }
  for (const Finding& f : v.findings)
    findings.push_back({{"severity", f.severity == Severity::failure ? "failure" : "note"},
                        {"artifact", f.artifact},
                        {"file", f.file},
                        {"what", f.what},
                        {"remedy", f.remedy}});
  return {{"holds", v.holds()},   {"artifacts", artifacts}, {"findings", findings},
          {"signers", v.signers}, {"files", v.files},       {"bytes", v.bytes}};
}

std::string text_of(const Verification& v) {
  std::string out;
  for (const ArtifactNode& node : v.run.nodes) {
    const Lineage* lineage = node.lineage();
    out += fmt::format("{:<5} {:<16} {:<16} {}\n", node.check.faults.empty() ? "ok" : "FAIL", printable(node.name),
                       lineage ? lineage->kind : "?", lineage ? "sha256:" + lineage->root.hex() : "");
  }
  for (const Finding& f : v.findings) {
    const std::string place = f.artifact.empty() ? "" : f.artifact + (f.file.empty() ? "" : "/" + f.file) + ": ";
    out += fmt::format("\n{}: {}{}\n", f.severity == Severity::failure ? "FAIL" : "note", printable(place), printable(f.what));
    if (!f.remedy.empty()) out += fmt::format("      {}\n", printable(f.remedy));
  }
  const bool from_outside = std::ranges::any_of(v.run.nodes, [](const ArtifactNode& n) {
    return std::ranges::any_of(n.parents, [&](const auto& input) { return input.second < 0 && n.is_from_outside(input.first); });
  });
  const auto foreign = std::ranges::count_if(v.run.nodes, [](const ArtifactNode& n) { return n.check.foreign; });
  const auto failures =
      std::count_if(v.findings.begin(), v.findings.end(), [](const Finding& f) { return f.severity == Severity::failure; });
  out += fmt::format(
      "\n{} artifacts, {} files, {:.1f} MB: {}\n", v.run.nodes.size(), v.files, double(v.bytes) / 1e6,
      failures > 0 ? fmt::format("{} failures", failures)
      : foreign == int64_t(v.run.nodes.size()) ? "every digest and the signature hold"
      : foreign > 0  ? "every digest and signature hold; what another tool signed has no lineage, so no chain leads through it"
      : from_outside ? "every digest and both signatures hold; a chain ends at files from outside without a statement"
                     : "every digest, both signatures and the whole chain hold");
  return out;
}

}  // namespace

bool Verification::holds() const {
  return std::none_of(findings.begin(), findings.end(), [](const Finding& f) { return f.severity == Severity::failure; });
}

Verification verify_run(const fs::path& folder, const VerifyConfig& config) {
  const auto trusted = config.trust.key();
  std::optional<CorpusSalt> salt;
  if (!config.salt.empty()) salt = CorpusSalt::read(config.salt);
  Verification result;
  result.run = load_run(folder, VerifyFiles::yes, trusted.get());
  Verifier verifier(result);
  verifier.artifacts();
  verifier.names();
  verifier.dependencies();
  verifier.uncovered();
  verifier.references();
  verifier.formats();
  verifier.chains();
  verifier.evidence();
  verifier.contents(salt ? &*salt : nullptr);
  verifier.signers(trusted != nullptr);
  return result;
}

Answer audit_verify(const VerifyConfig& config, const fs::path& folder) {
  const Verification result = verify_run(folder, config);
  return {to_json(result), text_of(result), result.holds() ? 0 : 4};
}

}  // namespace overproof
