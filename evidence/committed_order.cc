#include "evidence/committed_order.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"
#include "data/order.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

int64_t recorded(const Lineage& lineage, const char* name) {
  for (const Json* object : {&lineage.metrics, &lineage.config})
    if (object->is_object() && object->contains(name) && (*object)[name].is_number_integer())
      return (*object)[name].get<int64_t>();
  return 0;
}

std::string fault_of(const ArtifactNode& node) {
  if (!node.check.faults.empty())
    return fmt::format("'{}' is not the signed one: {}{}", node.name,
                       node.check.faults[0].file.empty() ? "" : node.check.faults[0].file + " ", node.check.faults[0].what);
  return "";
}

}  // namespace

FoundRun find_training_run(const fs::path& folder, const PublicKey* trusted) {
  FoundRun run;
  const auto missing = [](const std::string& why) {
    FoundRun none;
    none.missing = why;
    return none;
  };
  if (!fs::is_directory(folder)) return missing("it is neither a run nor an artifact, so it has no committed order");
  RunFolder graph;
  try {
    graph = load_run(folder, VerifyFiles::no, trusted);
  } catch (const UsageError&) {
    return missing("it has no lineage, so it has no committed order");
  }
  const ArtifactNode* student = nullptr;
  for (const ArtifactNode& node : graph.nodes)  // parents come before children, so the last is the nearest
    if (const LineageKind* kind = node.kind(); kind && kind->draw == WindowDraw::targets_order) student = &node;
  if (!student) return missing("its lineage has no distillation, so there is no committed order of training");
  // What entered `node` in a way, and is such a thing: in the slot of that name, else the first by its slot.
  const auto parent = [&](const ArtifactNode& node, Entry entry, Role role) -> const ArtifactNode* {
    std::vector<std::string> slots = node.slots_of(entry);
    std::stable_partition(slots.begin(), slots.end(), [&](const std::string& slot) { return slot == role_name(role); });
    for (const std::string& slot : slots)
      if (const int index = node.parents.at(slot); index >= 0)
        if (const ArtifactNode& found = graph.nodes[size_t(index)];
            role == Role::model || (found.kind() && found.kind()->role == role))
          return &found;
    return nullptr;
  };
  const ArtifactNode *targets = parent(*student, Entry::outputs, Role::targets),
                     *corpus = parent(*student, Entry::documents, Role::corpus);
  if (!targets || !corpus)
    return missing(
        fmt::format("the soft targets or the corpus that '{}' was trained on are missing from its run", student->name));
  for (const ArtifactNode* node : {student, targets, corpus}) {
    const ArtifactNode checked{node->name, node->path, check_artifact(node->path, VerifyFiles::yes, trusted), {}};
    if (const std::string fault = fault_of(checked); !fault.empty()) {
      run.missing = fault;
      run.broken = true;
      return run;
    }
  }
  run.steps = recorded(*student->lineage(), "steps");
  run.batch_size = recorded(*student->lineage(), "batch_size");
  if (run.steps < 1 || run.batch_size < 1 || !checked_mul(run.steps, run.batch_size))
    return missing(fmt::format("the statement of '{}' does not contain the number of steps and the batch size", student->name));
  run.student_name = student->name;
  run.student_root = student->lineage()->root;
  run.student = student->path;
  run.corpus = corpus->path;
  run.targets = targets->path;
  if (const ArtifactNode* teacher = parent(*targets, Entry::outputs, Role::model)) run.teacher = teacher->path;
  if (const ArtifactNode* initial = parent(*student, Entry::inherited, Role::model)) run.initial = initial->path;
  return run;
}

VisitedWindows visited_windows(const Digest& order_key, int64_t corpus_windows, int64_t taught, int64_t visits, int64_t most) {
  const TrainingOrder order(order_key, corpus_windows, taught);
  VisitedWindows result;
  result.taught = taught;
  result.epochs = double(visits) / double(taught);
  const int64_t whole = visits / taught;
  const int64_t wanted = std::min(taught, most);
  for (int64_t i = 0; i < wanted; ++i) {
    const auto block = int64_t((__int128(2 * i + 1) * taught) / (2 * wanted));
    int64_t last = order.position_of(block, whole);  // in the unfinished epoch, if that came so far
    if (last >= visits) last = whole > 0 ? order.position_of(block, whole - 1) : -1;
    if (last < 0) continue;
    result.windows.push_back(order.window_of_block(block));
    result.positions.push_back(double(last));
  }
  return result;
}

}  // namespace overproof
