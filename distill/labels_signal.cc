#include "distill/labels_signal.h"

namespace overproof {
namespace {

class LabelsSignal final : public TeacherSignal {
 public:
  explicit LabelsSignal(int64_t vocab) : vocab_(vocab) {}
  int64_t vocab_size() const override { return vocab_; }
  double temperature() const override { return 1.0; }
  TargetKind kind() const override { return TargetKind::sampled; }
  std::vector<Targets> rows(const TokenBatch& batch, int64_t, int64_t count) const override {
    Targets targets{.kind = kind()};
    targets.sparse.offsets.assign(size_t(count * batch.length + 1), 0);
    targets.sparse.tail.assign(size_t(count * batch.length), 0.0f);
    return {std::move(targets)};
  }
  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch)); }
  Evidence evidence() const override { return Evidence::re_derivable; }

 private:
  int64_t vocab_;
};

}  // namespace

std::unique_ptr<TeacherSignal> labels_signal(int64_t vocab) { return std::make_unique<LabelsSignal>(vocab); }

}  // namespace overproof
