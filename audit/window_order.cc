#include "audit/window_order.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"
#include "records/soft_targets.h"

namespace overproof {
namespace {

constexpr size_t kMostUses = 1'000'000;

/// A whole number, at least `least`, of the statement.
int64_t must_be_recorded(const ArtifactNode& node, const Json& in, const char* name, int64_t least) {
  if (in.is_object() && in.contains(name) && in[name].is_number_integer())
    if (const auto value = in[name].get<int64_t>(); value >= least) return value;
  throw ProvenanceError(fmt::format("{}: its statement does not record '{}'", node.name, name));
}

/// What a user chose is in the options, by which replay and recompute make the artifact again, and nowhere else; what came of it, such as the number of steps
/// of a training that stopped early, is in the metrics.
int64_t chosen(const ArtifactNode& node, const char* option, int64_t least) { return must_be_recorded(node, node.lineage()->config, option, least); }

int64_t resulting(const ArtifactNode& node, const char* metric, int64_t least) {
  const Lineage& lineage = *node.lineage();
  return must_be_recorded(node, lineage.metrics.contains(metric) ? lineage.metrics : lineage.config, metric, least);
}

}  // namespace

TaughtBlocks read_taught_blocks(const ArtifactNode& node) {
  const SoftTargetsOrigin origin = read_soft_targets_origin(node.path);
  const int64_t first = origin.part ? origin.part->first_block : 0;
  return {origin.order_key, origin.all_blocks(), first, first + origin.blocks};
}

bool reads_corpus(const ArtifactNode& node, const Digest& corpus_root) {
  if (!node.lineage()) return false;
  const LineageKind* kind = node.kind();
  // Statistics of it count, what was only measured on it does not.
  return kind && std::ranges::any_of(node.lineage()->inputs, [&](const auto& input) {
           const Entry entry = kind->entry(input.first);
           return (entry == Entry::documents || entry == Entry::statistics) && input.second.root == corpus_root;
         });
}

std::optional<WindowOrder> WindowOrder::of(const RunFolder& run, const ArtifactNode& node, const Digest& corpus_root,
                                           int64_t windows) {
  if (!reads_corpus(node, corpus_root) || windows < 1) return {};
  const LineageKind* kind = node.kind();
  if (!kind || kind->draw == WindowDraw::none) return {};
  WindowOrder order;
  order.name_ = node.name;
  order.windows_ = windows;
  const auto sample = [&] {
    const int64_t seed = chosen(node, "seed", 0);
    order.sample_ = Permutation(order_key(corpus_root, seed), kind->window_tweak, windows);
  };
  if (tuning_was_undone(*node.lineage())) return {};
  // calibrate reads in the order of soft targets when it has some. Of several, those of the slot "targets" fix the order.
  const ArtifactNode* found = nullptr;
  if (const auto slot = node.parents.find("targets"); kind->trains && slot != node.parents.end() && slot->second >= 0)
    if (const ArtifactNode& parent = run.nodes[size_t(slot->second)]; parent.kind() && parent.kind()->role == Role::targets)
      found = &parent;
  if (kind->draw == WindowDraw::targets_order || found) {
    if (found) {
      const TaughtBlocks targets = read_taught_blocks(*found);
      order.taught_ = TrainingOrder(targets.order_key, windows, targets.blocks);
    } else if (!node.lineage()->inputs.contains("targets")) {  // all windows, in an order of its own
      order.taught_ = TrainingOrder(order_key(corpus_root, chosen(node, "order-seed", 0)), windows, windows);
    } else {
      throw ProvenanceError(fmt::format("{}: the soft targets it was trained on are not here", node.name));
    }
    order.steps_ = resulting(node, "steps", 0);
    order.batch_ = chosen(node, "batch-size", 1);
  } else if (!kind->trains) {
    order.steps_ = std::min(resulting(node, "windows", 1), windows);
    sample();
  } else {
    order.steps_ = resulting(node, "steps", 0);
    order.batch_ = chosen(node, "batch-size", 1);
    sample();
  }
  // Numbers in a statement may be anything.
  if (!checked_mul(order.steps_, order.batch_))
    throw ProvenanceError(
        fmt::format("{}: its statement records {} steps of {} windows, which overflows", node.name, order.steps_, order.batch_));
  return order;
}

int64_t WindowOrder::block_at(int64_t position) const { return taught_ ? taught_->block_at(position) : -1; }

int64_t WindowOrder::window_at(int64_t position) const {
  OVERPROOF_CHECK(position >= 0 && position < positions());
  return taught_ ? taught_->window_of_block(taught_->block_at(position)) : sample_->forward(position % windows_);
}

int64_t WindowOrder::positions_for_all() const { return std::min(positions(), taught_ ? taught_->taught() : windows_); }

std::vector<int64_t> WindowOrder::positions_of(int64_t window) const {
  std::vector<int64_t> found;
  const auto add = [&](int64_t position) {
    if (found.size() >= kMostUses)
      throw ProvenanceError(
          fmt::format("{}: its statement implies that one window was used more than {} times", name_, kMostUses));
    if (position < positions()) found.push_back(position);
  };
  if (taught_) {
    const int64_t block = taught_->block_of_window(window);
    for (int64_t epoch = 0; block >= 0 && epoch * taught_->taught() < positions(); ++epoch)
      add(taught_->position_of(block, epoch));
  } else {
    for (int64_t position = sample_->inverse(window); position < positions(); position += windows_) add(position);
  }
  return found;
}

}  // namespace overproof
