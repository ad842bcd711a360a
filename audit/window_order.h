#pragma once
// The order in which a stage drew windows from a corpus, computed from its statement: no log is kept (data/order.h).

#include <cstdint>
#include <optional>
#include <vector>

#include "data/order.h"
#include "provenance/run_folder.h"

namespace overproof {

/// From the metadata of soft targets (records/soft_targets.h).
struct TaughtBlocks {
  Digest order_key;
  int64_t blocks = 0;              ///< of the whole
  int64_t first = 0, end = 0;      ///< those that are here: all unless it is a part
};
/// Throws FormatError.
TaughtBlocks read_taught_blocks(const ArtifactNode& node);

/// True when the node names this corpus, by root, as its corpus.
bool reads_corpus(const ArtifactNode& node, const Digest& corpus_root);

class WindowOrder {
 public:
  /// Nothing when the artifact drew no windows, or its training was thrown away. `windows` of the corpus's training stream.
  /// Throws ProvenanceError when its statement does not record what the order depends on, or records impossible values.
  static std::optional<WindowOrder> of(const RunFolder& run, const ArtifactNode& node, const Digest& corpus_root,
                                       int64_t windows);

  int64_t steps() const { return steps_; }
  int64_t batch() const { return batch_; }
  int64_t positions() const { return steps_ * batch_; }
  /// Whether the label of a window's last position, the token after it, was used as well.
  bool reads_labels() const { return taught_.has_value(); }
  int64_t window_at(int64_t position) const;
  /// The block of soft targets that a position trained on; -1 where there are none.
  int64_t block_at(int64_t position) const;
  /// All positions at which a window was drawn, ascending. Throws ProvenanceError when they are more than a million.
  std::vector<int64_t> positions_of(int64_t window) const;
  /// How many of the first positions hold every window that was drawn at all.
  int64_t positions_for_all() const;

 private:
  WindowOrder() = default;
  std::string name_;
  int64_t steps_ = 0, batch_ = 1, windows_ = 0;
  std::optional<TrainingOrder> taught_;  // distilled: in the order of the soft targets
  std::optional<Permutation> sample_;    // others: from the start of a permutation, going round it
};

}  // namespace overproof
