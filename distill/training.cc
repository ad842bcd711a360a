#include "distill/training.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "data/private_corpus.h"
#include "distill/losses/aligned.h"
#include "distill/repeats.h"
#include "model/host_values.h"

namespace overproof {

namespace {

/// Where each of `count` sequences of one length ends.
std::vector<int64_t> every(int64_t length, int64_t count) {
  std::vector<int64_t> ends;
  for (int64_t b = 1; b <= count; ++b) ends.push_back(b * length);
  return ends;
}

/// The losses of the rows of one Targets, in which sequences end at `ends`.
LossSums loss_of_rows(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets, const RowLabels& labels,
                      const std::vector<int64_t>& ends, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  if (targets.aligned) {
    require_targets(options.terms, targets.kind);
    return aligned_loss(hidden, head, *targets.aligned, labels, options, d_hidden, d_head);
  }
  if (!targets.states.empty()) return chunked_loss(hidden, head, targets, 0, labels, options, d_hidden, d_head);
  // Sparse rows one sequence at a time, so that the limits of chunks do not depend on the micro-batch.
  if (options.gradient) *d_hidden = at::empty_like(hidden);
  LossSums sums;
  int64_t begin = 0;
  for (const int64_t end : ends) {
    const auto row = size_t(begin), rows = size_t(end - begin);
    const RowLabels of_sequence{labels.labels.subspan(row, rows), labels.weight.empty() ? labels.weight : labels.weight.subspan(row, rows)};
    at::Tensor d_part;
    sums += chunked_loss(hidden.narrow(0, begin, end - begin), head, targets, begin, of_sequence, options, &d_part, d_head);
    if (options.gradient) d_hidden->narrow(0, begin, end - begin).copy_(d_part);
    begin = end;
  }
  return sums;
}

}  // namespace

LossSums batch_loss(const TokenBatch& batch, const TeacherSignal& signal, int64_t first, int64_t count, const at::Tensor& hidden,
                    const at::Tensor& whole_head, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_whole_head,
                    InnerRows* inner, at::Tensor* inner_loss) {
  const int64_t length = batch.length, common = std::min(signal.vocab_size(), whole_head.size(0));
  const at::Tensor head = whole_head.narrow(0, 0, common);
  at::Tensor d_common;
  if (d_whole_head) d_common = d_whole_head->narrow(0, 0, common);
  at::Tensor* d_head = d_whole_head ? &d_common : nullptr;
  std::vector<int64_t> labels;
  labels.reserve(size_t(count * length));
  for (int64_t b = first; b < first + count; ++b) {
    const std::span<const int64_t> ids = batch.sequence_ids(b);
    labels.insert(labels.end(), ids.begin() + 1, ids.end());
  }
  OVERPROOF_CHECK(std::ranges::max(labels) < common);  // tokens that both vocabularies have
  std::span<const float> weight, advantage;
  if (!batch.uniform()) weight = std::span(batch.weight).subspan(size_t(first * length), size_t(count * length));
  if (!batch.advantage.empty()) advantage = std::span(batch.advantage).subspan(size_t(first * length), size_t(count * length));
  std::vector<float> repeated;
  for (const LossTerm& term : options.terms)
    if (term.loss->of_repeats && !advantage.empty()) repeated = repeated_labels(batch, first, count, int64_t(term.parameter));

  const std::vector<Targets> parts = signal.rows(batch, first, count);
  for (const Targets& targets : parts)
    if (const auto beyond = std::ranges::find_if(targets.sparse.ids, [&](int32_t id) { return id >= common; }); beyond != targets.sparse.ids.end())
      throw MismatchError(fmt::format("the teacher's rows name token {}, but the vocabulary of student and teachers has {}: only rows that pad an embedding "
                                      "can be left out",
                                      *beyond, common));
  const auto add_inner = [&](LossSums sums) {
    if (!inner) return sums;
    if (parts.size() == 1) inner->teacher = parts.front().layers;
    inner->length = length;
    inner->weight = weight.empty()
                        ? at::ones({count * length}, hidden.options())
                        : at::tensor(at::ArrayRef<float>(weight.data(), weight.size()), at::kFloat).to(hidden.options());
    *inner_loss = inner_losses(*inner, options.terms, sums);
    return sums;
  };
  if (parts.size() == 1 && parts.front().rows.empty())
    return add_inner(loss_of_rows(hidden, head, parts.front(), {labels, weight, advantage, repeated}, every(length, count), options, d_hidden, d_head));
  // Each teacher's rows for themselves: together they are all rows, each once.
  if (options.gradient) *d_hidden = at::zeros_like(hidden);
  LossSums sums;
  int64_t covered = 0;
  for (const Targets& targets : parts) {
    const at::Tensor rows = at::tensor(targets.rows, at::kLong).to(hidden.device());
    std::vector<int64_t> part_labels, ends;
    std::vector<float> part_weight;
    for (size_t i = 0; i < targets.rows.size(); ++i) {
      const auto row = size_t(targets.rows[i]);
      if (i > 0 && targets.rows[i] / length != targets.rows[i - 1] / length) ends.push_back(int64_t(i));
      part_labels.push_back(labels[row]);
      if (!weight.empty()) part_weight.push_back(weight[row]);
    }
    ends.push_back(int64_t(targets.rows.size()));
    covered += ends.back();
    at::Tensor d_part;
    sums += loss_of_rows(hidden.index_select(0, rows), head, targets, {part_labels, part_weight}, ends, options, &d_part, d_head);
    if (options.gradient) d_hidden->index_copy_(0, rows, d_part);
  }
  OVERPROOF_CHECK(covered == count * length);
  return add_inner(std::move(sums));
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
  if (const std::string cause = shape.why_not_trained(); !cause.empty()) throw MismatchError("the student cannot be trained: " + cause);
  for (const TargetKind kind : signal_->kinds()) require_targets(losses_, kind);
  options_.steps = batches_->steps();
  trainer_ = std::make_unique<Trainer>(*student_, options_, group_);
  prepare_inside();
  if (!shape.is_moe()) return;
  counter_ = std::make_unique<RouterCounter>(batches_->source_names(), shape.layers, shape.n_routed_experts, group_);
  trainer_->count_routing(*counter_);
}

/// What losses need to see, and the projections that they learn.
void Training::prepare_inside() {
  const ModelConfig& shape = student_->config();
  const bool router = any_needs(losses_, Inside::router), layers = any_needs(losses_, Inside::layers);
  const auto refuse = [&](Inside what, const char* cause) {
    for (const LossTerm& term : losses_)
      if (term.loss->inside == what) throw UsageError(fmt::format("option 'loss': '{}' {}", term.loss->name, cause));
  };
  if (router && !shape.is_moe()) refuse(Inside::router, "needs a student with routed experts");
  trainer_->record_inside(router, layers);
  if (!layers) return;
  const TeacherSignal::Layers teacher = signal_->keep_layers();
  if (teacher.count == 0)
    refuse(Inside::layers,
           "compares layers with the teacher's, which soft targets and several teachers do not have; give --teacher and --teacher-share 1");
  if (teacher.width == shape.hidden_size) return;
  for (int64_t l = 0; l < shape.layers; ++l) {
    at::Tensor projection = at::empty({teacher.width, shape.hidden_size}, at::kFloat);
    Rng rng(0, "distill/projection", uint64_t(l));
    for (float& value : mutable_host_values<float>(projection))
      value = float(rng.normal() / std::sqrt(double(shape.hidden_size)));
    trainer_->add_trained(fmt::format("projections.{}", l), projection);
    projections_.push_back(projection);
  }
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
  const int64_t number = trainer_->steps_done();
  TokenBatch batch = batches_->at(number);
  LossOptions options;
  options.terms = losses_;
  options.temperature = signal_->temperature();
  StepRecord record = trainer_->step(batch, losses_, [&](const Trainer::Pass& pass) {
    options.grad_scale = pass.grad_scale;
    InnerRows inner{.routing = pass.routing, .student = pass.layers, .projections = projections_};
    return batch_loss(pass.batch, *signal_, pass.first, pass.count, pass.hidden, student_->head(), options, pass.d_hidden, pass.d_head,
                      &inner, pass.inner_loss);
  });
  const StepRecord planned = plan(record.step);
  record.position = planned.position;
  record.tokens_seen = planned.tokens_seen;
  reward_.reset();
  if (!batch.reward.empty()) reward_ = std::accumulate(batch.reward.begin(), batch.reward.end(), 0.0) / double(batch.reward.size());
  if (!follows(number)) written_ = {number, std::move(batch)};
  return record;
}

Digest Training::batch_root(int64_t step) const {
  const auto root_of = [&](const TokenBatch& batch) { return salted_batch_root(batch.root(signal_->digests(batch)), batch_salt_); };
  if (follows(step)) return root_of(batches_->at(step));
  OVERPROOF_CHECK(written_.first == step);
  return root_of(written_.second);
}

}  // namespace overproof
