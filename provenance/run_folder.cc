#include "provenance/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

bool is_signed(const fs::path& folder) {
  std::error_code ignored;  // a neighbour that may not be looked into is none of ours
  return fs::exists(fs::symlink_status(folder / kClaimsName, ignored)) ||
         fs::exists(fs::symlink_status(folder / kModelSignatureName, ignored));
}

/// Folders inside `folder`, by name. Hidden ones are a stage's scratch, not part of a run.
std::vector<fs::path> subfolders(const fs::path& folder) {
  std::vector<fs::path> found;
  try {
    for (const auto& entry : fs::directory_iterator(folder))
      if (!entry.path().filename().string().starts_with('.') && entry.is_directory()) found.push_back(entry.path());
  } catch (const fs::filesystem_error& e) {
    throw IoError(folder, "cannot list", e.code().value());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Names in a folder that `is_loose` finds.
std::vector<std::string> names_in(const fs::path& folder, const std::function<bool(const std::string&, const fs::directory_entry&)>& is_loose) {
  std::vector<std::string> found;
  try {
    for (const auto& entry : fs::directory_iterator(folder))
      if (std::string name = entry.path().filename().string(); is_loose(name, entry)) found.push_back(std::move(name));
  } catch (const fs::filesystem_error& e) {
    throw IoError(folder, "cannot list", e.code().value());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Files and hidden folders next to the artifacts of a run, and models in the folders of the program's own. Reports, the log and lock files, which are
/// empty, are left out; no result is read from them.
std::vector<std::string> loose_in(const fs::path& run) {
  return names_in(run, [](const std::string& name, const fs::directory_entry& entry) {
    std::error_code no_file;  // a link that leads nowhere, a pipe: no lock of ours
    if (entry.is_directory()) return name.starts_with('.') || (std::ranges::find(kOwnFolders, name) != std::end(kOwnFolders) && fs::exists(entry.path() / "config.json"));
    return std::ranges::find(kOwnFiles, name) == std::end(kOwnFiles) && !(name.starts_with('.') && name.ends_with(".lock") && entry.file_size(no_file) == 0);
  });
}

/// What is in an artifact and left out by signatures. Signers of other tools may cover what ours leave out.
void add_ignored(const ArtifactNode& node, std::vector<std::string>& loose) {
  const auto covered = [&](const std::string& name) {
    return node.lineage() && std::ranges::any_of(node.lineage()->files, [&](const FileRecord& file) {
             return file.name == name || file.name.starts_with(name + "/");
           });
  };
  for (const std::string& name : names_in(node.path, [&](const std::string& n, const fs::directory_entry&) {
         return is_oms_ignored(n) && n != kClaimsName && n != kModelSignatureName && !covered(n);
       }))
    loose.push_back(node.name + "/" + name);
}

/// The node with those files; where several have them, the one with that statement, then the one of that name. An input that had
/// no statement is not an import of the same files that is here: what the import records of origin and licence was not read.
int resolve(const std::vector<ArtifactNode>& nodes, const Dependency& input, bool without_statement) {
  int found = -1, best = -1;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Lineage* lineage = nodes[i].lineage();
    if (!lineage || lineage->root != input.root) continue;
    if (without_statement && nodes[i].kind() && nodes[i].kind()->origin == Origin::outside) continue;
    const int score = 2 * int(input.statement == lineage->statement) + int(nodes[i].name == input.name);
    if (score > best) found = int(i), best = score;
  }
  return found;
}

/// Files that are here and statements that are not what the child was made from.
void check_statements(std::vector<ArtifactNode>& nodes) {
  for (ArtifactNode& node : nodes) {
    const Lineage* lineage = node.lineage();
    if (!lineage || lineage->format < 2) continue;  // format 1 binds files alone: verify reports it
    for (const auto& [slot, index] : node.parents) {
      if (index < 0) continue;
      const Dependency& input = lineage->inputs.at(slot);
      const ArtifactNode& parent = nodes[size_t(index)];
      const Digest& found = parent.lineage()->statement;
      if (!input.statement && parent.check.foreign) continue;
      if (input.statement == found) continue;
      node.check.faults.push_back(
          {std::string(kClaimsName),
           input.statement
               ? fmt::format("was made from '{}' (as '{}') with statement sha256:{}; the statement here is sha256:{}",
                             parent.name, slot, input.statement->hex(), found.hex())
               : fmt::format("names its input '{}' (as '{}') by its files alone, although it has a statement", parent.name, slot),
           fmt::format("restore the claims.jsonl of '{}', or make this artifact again", parent.name)});
    }
  }
}

void bind_parents(std::vector<ArtifactNode>& nodes) {
  for (ArtifactNode& node : nodes) {
    node.parents.clear();
    if (const Lineage* lineage = node.lineage())
      for (const auto& [slot, input] : lineage->inputs) node.parents[slot] = resolve(nodes, input, node.is_from_outside(slot));
  }
}

/// Parents before children (Kahn's algorithm, by name where free to choose). What is left over is in a cycle, or made from one.
std::vector<int> topological(const std::vector<ArtifactNode>& nodes, std::vector<int>& left_over) {
  std::vector<int> order;
  std::vector<bool> done(nodes.size());
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (done[i]) continue;
      const auto ready = [&](const auto& parent) { return parent.second < 0 || done[size_t(parent.second)]; };
      if (!std::all_of(nodes[i].parents.begin(), nodes[i].parents.end(), ready)) continue;
      done[i] = more = true;
      order.push_back(int(i));
    }
  }
  for (size_t i = 0; i < nodes.size(); ++i)
    if (!done[i]) left_over.push_back(int(i));
  return order;
}

std::vector<ArtifactNode> pick(std::vector<ArtifactNode>& nodes, const std::vector<int>& order) {
  std::vector<ArtifactNode> picked;
  for (const int i : order) picked.push_back(std::move(nodes[size_t(i)]));
  return picked;
}

}  // namespace

std::vector<std::string> ArtifactNode::slots_of(Entry entry) const {
  std::vector<std::string> slots;
  const LineageKind* row = kind();
  if (!row) return slots;
  for (const auto& [slot, input] : lineage()->inputs)
    if (row->entry(slot) == entry) slots.push_back(slot);
  return slots;
}

bool ArtifactNode::is_from_outside(const std::string& slot) const {
  const Lineage* of = lineage();
  if (!of || check.foreign || of->format < 2 || of->inputs.at(slot).statement) return false;
  if (const std::optional<Role> role = role_in_slot(slot)) return *role == Role::model;
  const LineageKind* row = kind();
  return row && (row->find_entry(slot) == Entry::tokenizer ||
                 (!row->has_rule(slot) && std::ranges::find(row->other_roles, Role::model) != row->other_roles.end()));
}

const ArtifactNode* RunFolder::find(std::string_view name) const {
  for (const ArtifactNode& node : nodes)
    if (node.name == name) return &node;
  return nullptr;
}

std::vector<int> RunFolder::ancestors_of(int node) const {
  std::set<int> seen{node};
  std::vector<int> open{node};
  while (!open.empty()) {
    const int i = open.back();
    open.pop_back();
    for (const auto& [slot, parent] : nodes[size_t(i)].parents)
      if (parent >= 0 && seen.insert(parent).second) open.push_back(parent);
  }
  return {seen.begin(), seen.end()};
}

RunFolder load_run(const fs::path& folder, VerifyFiles verify, const PublicKey* trusted) {
  if (!fs::is_directory(folder)) throw IoError(folder, "cannot read the run folder", ENOENT);
  RunFolder run;
  run.path = fs::canonical(folder);
  run.single = is_signed(run.path);

  std::vector<ArtifactNode> nodes;
  for (const fs::path& path : subfolders(run.single ? run.path.parent_path() : run.path)) {
    throw_if_interrupted();
    const bool asked = !run.single || path == run.path;
    // A neighbour is hashed only once it is known to be an ancestor.
    if (is_signed(path))
      nodes.push_back({path.filename().string(), path, check_artifact(path, asked ? verify : VerifyFiles::no, trusted), {}});
    else if (!run.single && path.filename() != kAuditFolder && path.filename() != kKeptFolder && path.filename() != kLogsFolder)
      run.unsigned_folders.push_back(path.filename().string());
  }
  if (nodes.empty())
    throw UsageError(fmt::format("{}: holds no artifact (a folder with claims.jsonl and model.sig)", folder.string()));
  bind_parents(nodes);

  if (run.single) {
    run.nodes = std::move(nodes);
    int self = 0;
    while (run.nodes[size_t(self)].path != run.path) ++self;
    const std::vector<int> family = run.ancestors_of(self);
    nodes = pick(run.nodes, family);
    for (ArtifactNode& node : nodes)
      if (node.path != run.path && verify != VerifyFiles::no) node.check = check_artifact(node.path, verify, trusted);
    bind_parents(nodes);
  }
  std::vector<int> left_over;
  std::vector<int> order = topological(nodes, left_over);
  const size_t sound = order.size();
  order.insert(order.end(), left_over.begin(), left_over.end());
  run.nodes = pick(nodes, order);
  bind_parents(run.nodes);
  for (size_t i = sound; i < run.nodes.size(); ++i) {
    run.cyclic.push_back(int(i));
    run.nodes[i].check.faults.push_back(
        {"", "its lineage contains a cycle", "genuine statements cannot be cyclic: do not trust these artifacts"});
  }
  check_statements(run.nodes);
  if (!run.single) run.loose = loose_in(run.path);
  for (const ArtifactNode& node : run.nodes) add_ignored(node, run.loose);
  return run;
}

void require_sound(const ArtifactNode& node) {
  if (!node.check.faults.empty())
    throw ProvenanceError(fmt::format("{}: does not hold ({} {}); run 'overproof audit verify' first", node.name,
                                      node.check.faults.front().file, node.check.faults.front().what));
}

const ArtifactNode& only_corpus(const RunFolder& run) {
  const ArtifactNode* corpus = nullptr;
  for (const ArtifactNode& node : run.nodes) {
    if (const LineageKind* kind = node.kind(); !kind || kind->role != Role::corpus) continue;
    if (corpus)
      throw UsageError(
          fmt::format("two corpora here, '{}' and '{}': name one artifact instead of the run", corpus->name, node.name));
    corpus = &node;
  }
  if (!corpus) throw UsageError(fmt::format("{}: holds no corpus", run.path.string()));
  return *corpus;
}

std::optional<fs::path> run_of(const fs::path& path) {
  if (!fs::is_directory(path)) return std::nullopt;
  const fs::path place = fs::canonical(path);
  if (is_signed(place)) return place.parent_path();
  const std::vector<fs::path> inside = subfolders(place);
  return std::any_of(inside.begin(), inside.end(), is_signed) ? std::optional(place) : std::nullopt;
}

}  // namespace overproof
