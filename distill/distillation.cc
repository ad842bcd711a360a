#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "distill/batch_root.h"
#include "distill/training_run.h"
#include "student/ffn.h"

namespace overproof {
namespace {

void require_same_origin(const SoftTargets& targets, const Corpus& corpus, const Inputs& inputs, const ModelConfig& student) {
  if (targets.corpus_root() != inputs.root("corpus"))
    throw UsageError("the soft targets were taught on another corpus; teach this one first");
  if (targets.order_key() != order_key(inputs.root("corpus"), targets.encoding().seed, targets.order_beacon()))
    throw UsageError("the soft targets are in another order than corpus and seed give; teach this corpus again");
  if (targets.tokenizer_probe() != corpus.tokenizer_probe())
    throw UsageError("soft targets and corpus were made with different tokenizers");
  if (targets.window_length() != corpus.window_length())
    throw UsageError(
        fmt::format("soft targets have windows of {} tokens, the corpus of {}", targets.window_length(), corpus.window_length()));
  if (targets.vocab_size() != student.vocab_size)
    throw UsageError(fmt::format("the teacher speaks of {} ids, the student of {}", targets.vocab_size(), student.vocab_size));
  if (targets.blocks() < 1 || targets.blocks() > corpus.windows(Split::train))
    throw UsageError(fmt::format("{} blocks were taught but the corpus has {} training windows", targets.blocks(),
                                 corpus.windows(Split::train)));
}

// The windows, labels and teacher rows of one step, in the committed order.
struct Batch {
  at::Tensor windows;                // I64 [batch, length]
  std::vector<int64_t> labels;       // [batch x length]
  std::vector<int32_t> sources;      // [batch x length], of the inputs
  std::vector<TargetBlock> targets;  // [batch]
};

Batch read_batch(const Corpus& corpus, const TokenSources& sources, const SoftTargets& targets, const TrainingOrder& order,
                 int64_t step, int64_t size) {
  const int64_t length = corpus.window_length();
  Batch batch{at::empty({size, length}, at::kLong),
              {},
              std::vector<int32_t>(size_t(size * length)),
              std::vector<TargetBlock>(size_t(size))};
  batch.labels.reserve(size_t(size * length));
  std::vector<int64_t> ids(size_t(length) + 1);
  for (int64_t b = 0; b < size; ++b) {
    const int64_t block = order.block_at(step * size + b), window = order.window_of_block(block);
    corpus.read_window(Split::train, window, ids);
    sources.read_window(Split::train, window, std::span(batch.sources).subspan(size_t(b * length), size_t(length)));
    std::copy_n(ids.begin(), length, batch.windows.data_ptr<int64_t>() + b * length);
    batch.labels.insert(batch.labels.end(), ids.begin() + 1, ids.end());
    targets.read_block(block, batch.targets[size_t(b)]);
  }
  return batch;
}

// Loss of windows [first, first + count): one call a window, since each has rows of its own.
LossSums batch_loss(const Batch& batch, int64_t first, int64_t count, const at::Tensor& hidden, const at::Tensor& head,
                    const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  const int64_t length = batch.windows.size(1);
  *d_hidden = at::empty_like(hidden);
  LossSums sums;
  for (int64_t b = 0; b < count; ++b) {
    const TargetBlock& t = batch.targets[size_t(first + b)];
    const std::span<const int64_t> labels(batch.labels.data() + (first + b) * length, size_t(length));
    at::Tensor part;
    sums += sparse_loss(hidden.narrow(0, b * length, length), head, {t.offsets, t.ids, t.probabilities, t.tail}, labels, options,
                        &part, d_head);
    d_hidden->narrow(0, b * length, length).copy_(part);
  }
  return sums;
}

}  // namespace

Distillation::Distillation(const DistillConfig& config, const Inputs& inputs)
    : TrainingRun(inputs), ce_weight_(config.ce_weight), targets_(inputs.path("targets")) {
  require_same_origin(targets_, corpus_, inputs, student_.config());
  order_.emplace(targets_.order_key(), corpus_.windows(Split::train), targets_.blocks());
  TrainOptions whole = config.training;
  if (whole.steps == 0) whole.steps = (targets_.blocks() + whole.batch_size - 1) / whole.batch_size;
  begin(whole);
}

Digest Distillation::batch_root(int64_t step) const {
  const int64_t first = plan(step).position;
  BatchRoot root;
  std::vector<int64_t> ids(size_t(corpus_.window_length()) + 1);
  for (int64_t b = 0; b < options().batch_size; ++b) {
    const int64_t block = order_->block_at(first + b), window = order_->window_of_block(block);
    corpus_.read_window(Split::train, window, ids);
    root.add(window, ids, targets_.block_digest(block));
  }
  return root.finish();
}

StepRecord Distillation::step() {
  const StepRecord planned = plan(trainer().steps_done());
  const Batch batch = read_batch(corpus_, sources_, targets_, *order_, planned.step, options().batch_size);
  LossOptions loss_options;
  loss_options.temperature = targets_.temperature();
  loss_options.ce_weight = ce_weight_;
  return placed(trainer().step(
      batch.windows, ce_weight_, 2,
      [&](int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale, at::Tensor* d_hidden, at::Tensor* d_head) {
        LossOptions scaled = loss_options;
        scaled.grad_scale = grad_scale;
        return batch_loss(batch, first, count, hidden, student_.head(), scaled, d_hidden, d_head);
      },
      batch.sources));
}

}  // namespace overproof
