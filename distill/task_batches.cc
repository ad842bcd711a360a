#include "distill/task_batches.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "distill/continuations.h"
#include "distill/rewards.h"

namespace overproof {
namespace {

constexpr uint64_t kTaskTweak = 0x7461736b73;  // "tasks"; plus the number of times that all tasks were there
constexpr const char* kTaskSource = "tasks";

}  // namespace

TaskBatches::TaskBatches(std::unique_ptr<BatchSource> windows, int64_t batch, const Decoder& student, std::shared_ptr<const Tokenizer> tokenizer,
                         TaskPrompts tasks, VerifierOptions verifiers, std::set<int32_t> ends, const OnPolicyOptions& options, const Digest& order, uint64_t seed)
    : windows_(std::move(windows)),
      student_(student),
      tokenizer_(std::move(tokenizer)),
      tasks_(std::move(tasks)),
      verifier_(std::move(verifiers)),
      ends_(std::move(ends)),
      options_(options),
      order_(order),
      seed_(seed),
      names_(windows_->source_names()) {
  ends_.insert(tasks_.ends().begin(), tasks_.ends().end());
  if (batch % options_.group != 0)
    throw UsageError(fmt::format("option 'on-policy-group': a step has {} completions ('batch-size'), which are not whole groups of {}", batch, options_.group));
  const int64_t length = windows_->step_tokens() / batch;
  for (int64_t i = 0; i < tasks_.count(); ++i)
    if (int64_t(tasks_.opening(i).ids.size()) > length)
      throw MismatchError(fmt::format("the prompt of task '{}' has {} tokens, and windows of this corpus {}: make the corpus with a larger --window-length",
                                      tasks_.task(i).name, tasks_.opening(i).ids.size(), length));
  const auto place = std::ranges::lower_bound(names_, kTaskSource);  // names ascend
  source_ = int32_t(place - names_.begin());
  if (place != names_.end() && *place == kTaskSource) return;
  names_.insert(place, kTaskSource);
  shift_ = 1;
}

int64_t TaskBatches::task_at(int64_t position) const {
  const int64_t tasks = tasks_.tasks();
  return Permutation(order_, kTaskTweak + uint64_t(position / tasks), tasks).forward(position % tasks);
}

TokenBatch TaskBatches::at(int64_t step) const {
  TokenBatch batch = windows_->at(step);
  for (int32_t& source : batch.source) source += source >= source_ ? shift_ : 0;
  if (follows(step)) return batch;
  const int64_t groups = batch.batch / options_.group, first = options_.written_before(step) * groups;
  std::vector<Continuation> all;
  std::vector<int64_t> task_of;
  for (int64_t b = 0; b < batch.batch; ++b) {
    task_of.push_back(task_at(first + b / options_.group) * tasks_.per_task());
    const std::vector<int32_t>& prompt = tasks_.opening(task_of.back()).ids;
    all.push_back({.ids = prompt,
                   .room = std::min(options_.tokens, batch.length + 1 - int64_t(prompt.size())),
                   .rng = Rng(seed_, "distill/tasks", uint64_t(step * batch.batch + b))});
  }
  write_on(student_, all, ends_, options_.temperature);
  for (size_t b = 0; b < all.size(); ++b) {
    throw_if_interrupted();
    const std::vector<int32_t>& ids = all[b].ids;
    const size_t prompt = tasks_.opening(task_of[b]).ids.size();
    std::vector<int32_t> completion(ids.begin() + ptrdiff_t(prompt), ids.end());
    if (ends_.contains(completion.back())) completion.pop_back();
    batch.reward.push_back(reward_of(verifier_.judge(tasks_.task(task_of[b]), tokenizer_->decode(completion)).verdict));
  }
  const std::vector<float> advantages = group_advantages(batch.reward, size_t(options_.group));
  batch.advantage.assign(size_t(batch.tokens()), 0.0f);
  for (int64_t b = 0; b < batch.batch; ++b) {
    const std::vector<int32_t>& ids = all[size_t(b)].ids;
    const size_t row = size_t(b * batch.length), prompt = tasks_.opening(task_of[size_t(b)]).ids.size(), inputs = std::min(ids.size(), size_t(batch.length));
    std::ranges::copy(ids, batch.ids.begin() + b * (batch.length + 1));
    const auto of_row = [&](auto& values) { return std::span(values).subspan(row, size_t(batch.length)); };
    const auto weight = of_row(batch.weight), advantage = of_row(batch.advantage);
    std::ranges::fill(weight, 0.0f);
    std::ranges::fill(weight.subspan(prompt - 1, ids.size() - prompt), 1.0f);
    std::ranges::fill(advantage.subspan(prompt - 1, ids.size() - prompt), advantages[size_t(b)]);
    const auto segment = of_row(batch.segment);
    for (int32_t& s : segment) ++s;  // the window's own, behind the task
    std::ranges::fill(segment.first(inputs), 0);
    std::ranges::fill(of_row(batch.source).first(inputs), source_);
  }
  return batch;
}

}  // namespace overproof
