#include <fmt/format.h>

#include "core/error.h"
#include "teacher/signal.h"

namespace overproof {
namespace {

class StoredSignal final : public TeacherSignal {
 public:
  StoredSignal(std::shared_ptr<const SoftTargets> targets, int64_t windows)
      : targets_(std::move(targets)), order_(targets_->order_key(), windows, targets_->blocks()) {}

  int64_t vocab_size() const override { return targets_->vocab_size(); }
  double temperature() const override { return targets_->temperature(); }
  TargetKind kind() const override {
    return targets_->encoding().kind == RowEncoding::Kind::sample ? TargetKind::sampled : TargetKind::top_k;
  }

  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    OVERPROOF_CHECK(batch.length == targets_->window_length());
    Targets targets{.kind = kind()};
    SparseRows& all = targets.sparse;
    TargetBlock block;
    for (int64_t b = first; b < first + count; ++b) {
      targets_->read_block(block_of(batch, b), block);
      for (size_t r = 1; targets_->masked() && r < block.offsets.size(); ++r)
        if (block.offsets[r] == block.offsets[r - 1] && batch.weight[size_t(b * batch.length) + r - 1] != 0)
          throw MismatchError(fmt::format("the soft targets have no row for token {} of window {}, which the corpus trains; teach the corpus again",
                                          r - 1, batch.numbers[size_t(b)]));
      const int64_t before = all.offsets.back();
      for (size_t r = 1; r < block.offsets.size(); ++r) all.offsets.push_back(before + block.offsets[r]);
      all.ids.insert(all.ids.end(), block.ids.begin(), block.ids.end());
      all.probabilities.insert(all.probabilities.end(), block.probabilities.begin(), block.probabilities.end());
      all.tail.insert(all.tail.end(), block.tail.begin(), block.tail.end());
    }
    return {std::move(targets)};
  }

  std::vector<Digest> digests(const TokenBatch& batch) const override {
    std::vector<Digest> list;
    for (int64_t b = 0; b < batch.batch; ++b) list.push_back(targets_->block_digest(block_of(batch, b)));
    return list;
  }

  Evidence evidence() const override { return targets_->origin().evidence; }

 private:
  int64_t block_of(const TokenBatch& batch, int64_t b) const {
    const int64_t block = order_.block_of_window(batch.numbers[size_t(b)]);
    OVERPROOF_CHECK(block >= 0);
    return block;
  }

  std::shared_ptr<const SoftTargets> targets_;
  TrainingOrder order_;
};

}  // namespace

std::unique_ptr<TeacherSignal> stored_signal(std::shared_ptr<const SoftTargets> targets, int64_t windows) {
  return std::make_unique<StoredSignal>(std::move(targets), windows);
}

}  // namespace overproof
