#pragma once
// Batches of tasks (verify/task.h) that the student completes, and verifiers judge: the on-policy steps of a training with rewards.

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/digest.h"
#include "data/order.h"
#include "data/token_batch.h"
#include "data/tokenizer.h"
#include "distill/on_policy.h"
#include "teacher/task_prompts.h"
#include "verify/verifier.h"

namespace overproof {

/// The batches of `windows`. In a share of the steps each sequence begins with the prompt of a task and what the student draws after it, `group` sequences
/// a task, and only what was drawn counts; what follows of the window stays behind it as another segment, without weight. Tasks come in an order that
/// `order` keys, one after another, in another order each time that all were there. Rewards and advantages: distill/rewards.h. A batch
/// takes what OnPolicyBatches take, and the verifiers' time.
class TaskBatches final : public BatchSource {
 public:
  /// `student` and `tokenizer` must outlive this. `ends`: ids that end a text, in addition to those that end a turn. Throws UsageError
  /// unless the batches of `windows` are whole groups, MismatchError when a prompt leaves no room in a window.
  TaskBatches(std::unique_ptr<BatchSource> windows, int64_t batch, const Decoder& student, std::shared_ptr<const Tokenizer> tokenizer, TaskPrompts tasks,
              VerifierOptions verifiers, std::set<int32_t> ends, const OnPolicyOptions& options, const Digest& order, uint64_t seed);
  int64_t steps() const override { return windows_->steps(); }
  int64_t step_tokens() const override { return windows_->step_tokens(); }
  bool follows(int64_t step) const override { return options_.written_before(step + 1) == options_.written_before(step); }
  double step_weight(int64_t step) const override { return windows_->step_weight(step); }
  const std::vector<std::string>& source_names() const override { return names_; }
  /// Throws as OnPolicyBatches::at, and as Verifier::judge.
  TokenBatch at(int64_t step) const override;

 private:
  int64_t task_at(int64_t position) const;
  std::unique_ptr<BatchSource> windows_;
  const Decoder& student_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  TaskPrompts tasks_;
  mutable Verifier verifier_;  // which keeps its programs and patterns
  std::set<int32_t> ends_;
  OnPolicyOptions options_;
  Digest order_;
  uint64_t seed_;
  std::vector<std::string> names_;  // of the windows' sources, and "tasks"
  int32_t source_ = 0, shift_ = 0;  // of tasks in names_; of the windows' sources from there on
};

}  // namespace overproof
