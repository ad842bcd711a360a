#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "distill/batch_root.h"
#include "distill/training_run.h"
#include "student/ffn.h"

namespace overproof {
namespace {

constexpr uint64_t kTrainTweak = 0x63616c6962726174;  // no epoch counts this far

}  // namespace

at::Tensor sampled_windows(const Corpus& corpus, Split split, const Permutation& sample, int64_t first, int64_t count,
                           std::vector<int64_t>* numbers) {
  const int64_t length = corpus.window_length();
  const at::Tensor windows = at::empty({count, length}, at::kLong);
  std::vector<int64_t> ids(size_t(length) + 1);
  for (int64_t w = 0; w < count; ++w) {
    const int64_t number = sample.forward((first + w) % corpus.windows(split));
    if (numbers) numbers->push_back(number);
    corpus.read_window(split, number, ids);
    std::copy_n(ids.begin(), length, windows.data_ptr<int64_t>() + w * length);
  }
  return windows;
}

RouterCalibration::RouterCalibration(const CalibrateConfig& config, const Inputs& inputs)
    : TrainingRun(inputs), teacher_(open_model(inputs, "teacher", corpus_)) {
  if (!student_.config().is_moe()) throw UsageError("the student has no routed experts, so there is no router to calibrate");
  if (student_.config().vocab_size != teacher_.config().vocab_size)
    throw UsageError(
        fmt::format("the teacher has {} ids, the student {}", teacher_.config().vocab_size, student_.config().vocab_size));
  if (corpus_.windows(Split::held_out) < 1) throw UsageError("the corpus has no held-out window to judge the calibration on");
  if (corpus_.windows(Split::train) < 1) throw UsageError("the corpus has no training window to calibrate with");
  ModelConfig& shape = student_.config();
  given_top_k_ = shape.top_k;
  shape.top_k = top_k_for_activation(config.target_activation, shape.n_routed_experts, shape.n_shared_experts);
  key_ = overproof::order_key(inputs.root("corpus"), config.seed);
  sample_.emplace(key_, kTrainTweak, corpus_.windows(Split::train));
  begin(config.training);
}

Digest RouterCalibration::batch_root(int64_t step) const {
  const int64_t first = plan(step).position;
  BatchRoot root;
  std::vector<int64_t> ids(size_t(corpus_.window_length()) + 1);
  for (int64_t b = 0; b < options().batch_size; ++b) {
    const int64_t window = sample_->forward((first + b) % corpus_.windows(Split::train));
    corpus_.read_window(Split::train, window, ids);
    root.add(window, ids, Digest{});
  }
  return root.finish();
}

StepRecord RouterCalibration::step() {
  const StepRecord planned = plan(trainer().steps_done());
  const int64_t length = corpus_.window_length();
  std::vector<int64_t> numbers;
  const at::Tensor windows = sampled_windows(corpus_, Split::train, *sample_, planned.position, options().batch_size, &numbers);
  std::vector<int32_t> token_sources(size_t(options().batch_size * length));
  for (size_t w = 0; w < numbers.size(); ++w)
    sources_.read_window(Split::train, numbers[w], std::span(token_sources).subspan(w * size_t(length), size_t(length)));
  return placed(trainer().step(
      windows, 0.0, 1,
      [&](int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale, at::Tensor* d_hidden, at::Tensor* d_head) {
        at::NoGradGuard no_grad;
        LossOptions scaled;
        scaled.grad_scale = grad_scale;
        const at::Tensor theirs = teacher_.hidden(windows.narrow(0, first, count));
        return dense_loss(hidden, student_.head(), theirs, teacher_.head(), {}, scaled, d_hidden, d_head);
      },
      token_sources));
}

}  // namespace overproof
