#include "audit/diff.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json_object.h"
#include "core/printable.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

/// Members of two objects that differ: {"name": {"a": ..., "b": ...}}; what one lacks is null.
Json members_diff(const Json& a, const Json& b) {
  Json diff = Json::object();
  for (const auto& [name, value] : a.items())
    if (!b.contains(name) || b[name] != value) diff[name] = {{"a", value}, {"b", b.contains(name) ? b[name] : Json(nullptr)}};
  for (const auto& [name, value] : b.items())
    if (!a.contains(name)) diff[name] = {{"a", nullptr}, {"b", value}};
  return diff;
}

Json values_diff(const std::string& a, const std::string& b) { return {{"a", a}, {"b", b}}; }

Json inputs_of(const Lineage& lineage) {
  Json inputs = Json::object();
  for (const auto& [slot, input] : lineage.inputs) inputs[slot] = "sha256:" + input.root.hex();
  return inputs;
}

Json files_diff(const Lineage& a, const Lineage& b) {
  std::map<std::string, Digest> old;
  for (const FileRecord& f : a.files) old[f.name] = f.digest;
  Json added = Json::array(), removed = Json::array(), changed = Json::array();
  for (const FileRecord& f : b.files) {
    const auto before = old.find(f.name);
    if (before == old.end()) {
      added.push_back(f.name);
      continue;
    }
    if (before->second != f.digest) changed.push_back(f.name);
    old.erase(before);
  }
  for (const auto& [name, digest] : old) removed.push_back(name);
  if (added.empty() && removed.empty() && changed.empty()) return nullptr;
  return {{"added", added}, {"removed", removed}, {"changed", changed}};
}

/// name -> digest, from the table; the file was checked against the statement.
std::map<std::string, std::string> documents_of(const LineageFacts& facts, const ArtifactFacts& corpus) {
  std::map<std::string, std::string> documents;
  const ArtifactNode& node = facts.node(corpus);
  const auto text = sealed_text(node, "documents.jsonl", int64_t{8} << 30);
  if (!text) return documents;
  const fs::path origin = node.path / "documents.jsonl";
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    const Json line = parse_json(std::string_view(*text).substr(begin, end - begin), origin, int64_t(begin));
    const JsonObject document(line, origin, "", JsonNull::value, int64_t(begin));
    documents[document.text("name")] = document.text("digest");
    begin = end + 1;
  }
  return documents;
}

/// Whose text is the same under another name has moved; it was neither added nor removed.
Json documents_diff(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  std::map<std::string, std::string> gone, come;  // digest -> name
  Json changed = Json::array(), renamed = Json::array(), added = Json::array(), removed = Json::array();
  for (const auto& [name, digest] : a) {
    const auto other = b.find(name);
    if (other == b.end()) gone[digest] = name;
    else if (other->second != digest) changed.push_back(name);
  }
  for (const auto& [name, digest] : b)
    if (!a.contains(name)) come[digest] = name;
  for (const auto& [digest, name] : come) {
    const auto before = gone.find(digest);
    if (before == gone.end()) {
      added.push_back(name);
      continue;
    }
    renamed.push_back({{"a", before->second}, {"b", name}});
    gone.erase(before);
  }
  for (const auto& [digest, name] : gone) removed.push_back(name);
  if (changed.empty() && renamed.empty() && added.empty() && removed.empty()) return nullptr;
  std::sort(added.begin(), added.end());
  std::sort(removed.begin(), removed.end());
  return {{"added", added}, {"removed", removed}, {"changed", changed}, {"renamed", renamed}};
}

Json licenses_of(const ArtifactFacts& corpus) {
  Json licenses = Json::object();
  if (corpus.corpus)
    for (const LicenseCount& l : corpus.corpus->licenses) licenses[l.recorded] = l.count.documents;
  return licenses;
}

Json artifact_diff(const LineageFacts& in_a, const ArtifactFacts& a, const LineageFacts& in_b, const ArtifactFacts& b) {
  const Lineage &x = in_a.lineage(a), &y = in_b.lineage(b);
  Json fields = Json::object();
  const auto put = [&](const char* name, Json value) {
    if (!value.is_null() && !value.empty()) fields[name] = std::move(value);
  };
  if (a.name != b.name) fields["name"] = values_diff(a.name, b.name);
  if (x.kind != y.kind) fields["kind"] = values_diff(x.kind, y.kind);
  if (x.stage != y.stage) fields["stage"] = values_diff(x.stage, y.stage);
  if (x.root != y.root) fields["root"] = values_diff("sha256:" + x.root.hex(), "sha256:" + y.root.hex());
  if (in_a.node(a).check.signer_hint != in_b.node(b).check.signer_hint)
    fields["signer"] = values_diff(in_a.node(a).check.signer_hint, in_b.node(b).check.signer_hint);
  put("config", members_diff(x.config, y.config));
  put("inputs", members_diff(inputs_of(x), inputs_of(y)));
  put("builder", members_diff(Json(x.builder), Json(y.builder)));
  put("metrics", members_diff(x.metrics, y.metrics));
  put("files", files_diff(x, y));
  if (a.role == Role::corpus && b.role == Role::corpus && x.root != y.root) {
    put("licenses", members_diff(licenses_of(a), licenses_of(b)));
    put("documents", documents_diff(documents_of(in_a, a), documents_of(in_b, b)));
  }
  return fields;
}

const ArtifactFacts* named(const LineageFacts& facts, const std::string& name) {
  for (const ArtifactFacts& a : facts.artifacts)
    if (a.name == name) return &a;
  return nullptr;
}

std::string shorter(const Json& value) {
  std::string text = value.is_string() ? value.get<std::string>()
                     : value.is_null() ? "-"
                                       : dump_text(value);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return printable(text);
}

std::string lists_text(const Json& lists, int64_t most) {
  std::string out;
  for (const char* kind : {"added", "removed", "changed", "renamed"}) {
    if (!lists.contains(kind) || lists[kind].empty()) continue;
    const Json& list = lists[kind];
    out += fmt::format("    {} {}\n", list.size(), kind);
    for (size_t i = 0; i < list.size() && int64_t(i) < most; ++i)
      out += fmt::format("      {}\n",
                         list[i].is_string() ? shorter(list[i]) : shorter(list[i]["a"]) + " -> " + shorter(list[i]["b"]));
    if (int64_t(list.size()) > most) out += fmt::format("      ... and {} more\n", int64_t(list.size()) - most);
  }
  return out;
}

std::string text_of(const Json& diff, int64_t most) {
  std::string out;
  for (const Json& name : diff["only_in_a"]) out += fmt::format("only in A: {}\n", shorter(name));
  for (const Json& name : diff["only_in_b"]) out += fmt::format("only in B: {}\n", shorter(name));
  for (const Json& item : diff["changed"]) {
    out += shorter(item["artifact"]) + "\n";
    for (const auto& [field, value] : item["fields"].items()) {
      if (field == "files" || field == "documents") {
        out += fmt::format("  {}\n", field);
        out += lists_text(value, most);
      } else if (value.contains("a") && value.contains("b") && value.size() == 2 && !value["a"].is_object()) {
        out += fmt::format("  {}: {} -> {}\n", field, shorter(value["a"]), shorter(value["b"]));
      } else {
        out += fmt::format("  {}\n", field);
        for (const auto& [name, pair] : value.items())
          out += fmt::format("    {}: {} -> {}\n", printable(name), shorter(pair["a"]), shorter(pair["b"]));
      }
    }
  }
  if (diff["same"] == true) out += "nothing changed\n";
  return out;
}

}  // namespace

Json lineage_diff(const LineageFacts& a, const LineageFacts& b) {
  Json only_a = Json::array(), only_b = Json::array(), changed = Json::array();
  const auto compare = [&](const ArtifactFacts& x, const ArtifactFacts& y) {
    if (Json fields = artifact_diff(a, x, b, y); !fields.empty()) changed.push_back({{"artifact", y.name}, {"fields", fields}});
  };
  const ArtifactFacts* x = a.subject >= 0 ? &a.artifacts[size_t(a.subject)] : nullptr;
  const ArtifactFacts* y = b.subject >= 0 ? &b.artifacts[size_t(b.subject)] : nullptr;
  const bool pair = x && y;
  for (const ArtifactFacts& item : b.artifacts) {
    if (pair && &item == y) compare(*x, *y);
    else if (const ArtifactFacts* before = named(a, item.name); before && !(pair && before == x)) compare(*before, item);
    else only_b.push_back(item.name);
  }
  for (const ArtifactFacts& item : a.artifacts)
    if (!(pair && &item == x))
      if (const ArtifactFacts* after = named(b, item.name); !after || (pair && after == y)) only_a.push_back(item.name);
  return {{"same", only_a.empty() && only_b.empty() && changed.empty()},
          {"only_in_a", only_a},
          {"only_in_b", only_b},
          {"changed", changed}};
}

Answer audit_diff(const DiffConfig& config, const fs::path& a, const fs::path& b) {
  const auto trusted = config.trust.key();
  const LineageFacts first = collect_facts(a, trusted.get()), second = collect_facts(b, trusted.get());
  const Json diff = lineage_diff(first, second);
  std::string text = text_of(diff, config.most);
  for (const auto& [label, facts] : {std::pair{"a", &first}, {"b", &second}})
    text += fmt::format("{}: {}\n", label, signature_seen(signers_of(facts->run), trusted != nullptr));
  return {diff, text};
}

}  // namespace overproof
