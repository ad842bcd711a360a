#include "distill/training.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "data/private_corpus.h"

namespace overproof {

LossSums batch_loss(const TokenBatch& batch, const TeacherSignal& signal, int64_t first, int64_t count, const at::Tensor& hidden,
                    const at::Tensor& head, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  const int64_t length = batch.length;
  std::vector<int64_t> labels;
  labels.reserve(size_t(count * length));
  for (int64_t b = first; b < first + count; ++b) {
    const std::span<const int64_t> ids = batch.sequence_ids(b);
    labels.insert(labels.end(), ids.begin() + 1, ids.end());
  }
  std::span<const float> weight;
  if (!batch.uniform()) weight = std::span(batch.weight).subspan(size_t(first * length), size_t(count * length));

  const Targets targets = signal.rows(batch, first, count);
  if (!targets.states.empty())
    return chunked_loss(hidden, head, targets, 0, {labels, weight}, options, d_hidden, d_head);
  // Sparse rows one sequence at a time, so that the limits of chunks do not depend on the micro-batch.
  if (options.gradient) *d_hidden = at::empty_like(hidden);
  LossSums sums;
  for (int64_t b = 0; b < count; ++b) {
    const auto row = size_t(b * length), rows = size_t(length);
    const RowLabels part_labels{std::span(labels).subspan(row, rows), weight.empty() ? weight : weight.subspan(row, rows)};
    at::Tensor d_part;
    sums += chunked_loss(hidden.narrow(0, b * length, length), head, targets, b * length, part_labels, options, &d_part, d_head);
    if (options.gradient) d_hidden->narrow(0, b * length, length).copy_(d_part);
  }
  return sums;
}

Training::Training(std::unique_ptr<Decoder> student, std::unique_ptr<BatchSource> batches, std::unique_ptr<TeacherSignal> signal,
                   LossTerms losses, const TrainOptions& options, std::shared_ptr<const Group> group)
    : options_(options),
      student_(std::move(student)),
      batches_(std::move(batches)),
      signal_(std::move(signal)),
      losses_(std::move(losses)),
      group_(std::move(group)) {
  const ModelConfig& shape = student_->config();
  if (signal_->vocab_size() != shape.vocab_size)
    throw MismatchError(fmt::format("vocabulary sizes differ: teacher {}, student {}", signal_->vocab_size(), shape.vocab_size));
  require_targets(losses_, signal_->kind());
  options_.steps = batches_->steps();
  trainer_ = std::make_unique<Trainer>(*student_, options_, group_);
  if (!shape.is_moe()) return;
  counter_ = std::make_unique<RouterCounter>(batches_->source_names(), shape.layers, shape.n_routed_experts, group_);
  trainer_->count_routing(*counter_);
}

std::vector<std::string> Training::terms() const {
  std::vector<std::string> names;
  for (const LossTerm& term : losses_) names.emplace_back(term.loss->name);
  return names;
}

StepRecord Training::plan(int64_t step) const {
  StepRecord record;
  record.step = step;
  record.position = step * options_.batch_size;
  record.sequences = options_.batch_size;
  record.tokens = step_tokens();
  record.weight = batches_->step_weight(step);
  record.tokens_seen = (step + 1) * step_tokens();
  record.learning_rate = learning_rate_at(options_, step);
  return record;
}

StepRecord Training::step() {
  const TokenBatch batch = batches_->at(trainer_->steps_done());
  LossOptions options;
  options.terms = losses_;
  options.temperature = signal_->temperature();
  StepRecord record = trainer_->step(
      batch, losses_,
      [&](int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale, at::Tensor* d_hidden, at::Tensor* d_head) {
        options.grad_scale = grad_scale;
        return batch_loss(batch, *signal_, first, count, hidden, student_->head(), options, d_hidden, d_head);
      });
  const StepRecord planned = plan(record.step);
  record.position = planned.position;
  record.tokens_seen = planned.tokens_seen;
  return record;
}

Digest Training::batch_root(int64_t step) const {
  const TokenBatch batch = batches_->at(step);
  return salted_batch_root(batch.root(signal_->digests(batch)), batch_salt_);
}

}  // namespace overproof
