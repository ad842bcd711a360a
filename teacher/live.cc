#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "teacher/signal.h"

namespace overproof {
namespace {

class LiveSignal final : public TeacherSignal {
 public:
  LiveSignal(std::shared_ptr<const Decoder> teacher, double temperature) : teacher_(std::move(teacher)), temperature_(temperature) {}

  int64_t vocab_size() const override { return teacher_->config().vocab_size; }
  double temperature() const override { return temperature_; }
  TargetKind kind() const override { return TargetKind::whole; }

  std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const override {
    at::NoGradGuard no_grad;
    Targets targets{.kind = kind()};
    ForwardOptions options;
    if (keep_layers_) options.layers = &targets.layers;
    options.segments = input_segments(batch, first, count);
    targets.states.push_back({teacher_->hidden(input_ids(batch, first, count), options), teacher_->head(), 1, teacher_->config().logit_cap});
    return {std::move(targets)};
  }

  Layers keep_layers() override {
    keep_layers_ = true;
    return {teacher_->config().hidden_size, teacher_->config().layers};
  }

  std::vector<Digest> digests(const TokenBatch& batch) const override { return std::vector<Digest>(size_t(batch.batch)); }
  Evidence evidence() const override { return Evidence::re_derivable; }

 private:
  std::shared_ptr<const Decoder> teacher_;
  double temperature_;
  bool keep_layers_ = false;
};

}  // namespace

std::unique_ptr<TeacherSignal> live_signal(std::shared_ptr<const Decoder> teacher, double temperature) {
  return std::make_unique<LiveSignal>(std::move(teacher), temperature);
}

at::Tensor input_ids(const TokenBatch& batch, int64_t first, int64_t count) {
  const int64_t row = batch.length + 1;
  const at::ArrayRef<int64_t> ids(batch.ids.data() + first * row, size_t(count * row));
  return at::tensor(ids, at::kLong).view({count, row}).narrow(1, 0, batch.length).contiguous();
}

at::Tensor input_segments(const TokenBatch& batch, int64_t first, int64_t count) {
  if (batch.one_segment()) return {};
  const at::ArrayRef<int32_t> all(batch.segment.data() + first * batch.length, size_t(count * batch.length));
  return at::tensor(all, at::kInt).view({count, batch.length});
}

}  // namespace overproof
