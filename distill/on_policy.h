#pragma once
// Batches that the student writes: it continues windows of the corpus, and learns the teacher's distribution at what it wrote itself, so
// that it meets in training the states that its own mistakes lead to (generalised knowledge distillation, Agarwal et al. 2024,
// arXiv:2306.13649, section 3; no gradient passes through the draws).

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "data/token_batch.h"

namespace overproof {

class Decoder;

struct OnPolicyOptions {
  double share = 0;         ///< of the steps, spread evenly
  int64_t prompt = 16;      ///< least ids of a window that the student continues
  int64_t tokens = 64;      ///< most ids that it writes in a window
  double temperature = 1.0;  ///< of the draws; 0: the most probable id
  int64_t group = 4;         ///< of tasks: completions of one, whose rewards are compared
  /// How many of the steps before this one the student writes.
  int64_t written_before(int64_t step) const { return int64_t(double(step) * share); }
};

/// The batches of `windows`, some of which the student continues. Of such a window the beginning is the prompt: `prompt` ids, or all up to
/// the first that counts in the loss if those are more. The ids that the student draws after it take the place of the window's, up to an
/// end id, and only they count in the loss; what follows of the window stays, without weight. Draw i of a sequence depends on the seed,
/// the sequence's position and i. A batch takes a copy of the weights in memory and, for each id, a pass of the student for one token.
class OnPolicyBatches final : public BatchSource {
 public:
  /// `student` must outlive this. `ends`: ids that end a text.
  OnPolicyBatches(std::unique_ptr<BatchSource> windows, const Decoder& student, std::set<int32_t> ends, const OnPolicyOptions& options,
                  uint64_t seed);
  int64_t steps() const override { return windows_->steps(); }
  int64_t step_tokens() const override { return windows_->step_tokens(); }
  bool follows(int64_t step) const override;
  double step_weight(int64_t step) const override { return windows_->step_weight(step); }
  const std::vector<std::string>& source_names() const override { return windows_->source_names(); }
  /// Throws DivergenceError when the student's logits are not finite, Interrupted.
  TokenBatch at(int64_t step) const override;

 private:
  std::unique_ptr<BatchSource> windows_;
  const Decoder& student_;
  std::set<int32_t> ends_;
  OnPolicyOptions options_;
  uint64_t seed_;
};

}  // namespace overproof
