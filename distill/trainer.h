#pragma once
// One training step, repeated: forward, hand-written loss gradient, backward, clipping, AdamW, expert balancing. What it
// holds beside the weights is one gradient and two moments for each trained tensor.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "records/step_records.h"
#include "distill/loss.h"
#include "distill/router_counts.h"
#include "distill/train_options.h"
#include "formats/safetensors.h"
#include "model/decoder.h"

namespace overproof {

/// "experts" (any FFN weight), "router", "norms", "attention", "embeddings", "head", or "" for what is never trained by
/// gradient (the router's balancing bias).
std::string trained_group(const std::string& parameter);

/// Learning rate of step (from 0).
double learning_rate_at(const TrainOptions& options, int64_t step);

class Trainer {
 public:
  /// Marks the chosen groups of `model` (which must outlive this) as trained. Throws UsageError for an unknown group or an
  /// empty choice.
  Trainer(Decoder& model, const TrainOptions& options);

  /// Loss of hidden states [tokens, hidden] of micro-batch rows [first, first + count) of the batch; fills d_hidden and,
  /// when not null, adds to d_head. Gradients are to be scaled by `grad_scale`.
  using Loss = std::function<LossSums(int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale,
                                      at::Tensor* d_hidden, at::Tensor* d_head)>;

  /// Counts from now on which experts each source's tokens are sent to. `counter`, which must outlive this, becomes part of
  /// state().
  void count_routing(RouterCounter& counter) { counter_ = &counter; }

  /// One step on windows I64 [batch, length], as many in memory at a time as the options say. `token_sources`: of each token, row
  /// by row; needed when routing is counted. Position and digests of the record are left to the caller.
  /// The record's terms are KL and, when `term_count` is 2, cross-entropy.
  StepRecord step(const at::Tensor& windows, double ce_weight, size_t term_count, const Loss& loss, std::span<const int32_t> token_sources = {});

  int64_t steps_done() const { return steps_done_; }
  int64_t trained_parameters() const;
  /// Tokens sent to each expert so far, I64 [layers, experts]; undefined for a dense model.
  const at::Tensor& expert_tokens() const { return expert_tokens_; }
  /// Load fractions [[per layer]] that sum to one.
  Json expert_load() const;

  /// Everything a later step depends on, as named tensors that stay the trainer's own: weights being trained, moments,
  /// router biases, load counts. Copying values into them and calling resume_at() continues bitwise.
  std::vector<NamedTensor> state() const;
  void resume_at(int64_t steps_done) { steps_done_ = steps_done; }
  /// The part of state() that is no weight: moments and load counts.
  std::vector<NamedTensor> optimizer_state() const;

 private:
  struct Slot {
    std::string name;
    at::Tensor weight, first, second;  // moments of AdamW
    bool decayed, router;
  };
  double clip_gradients() const;
  void update_weights(double rate);
  double balance_experts(const std::vector<at::Tensor>& loads);

  Decoder& model_;
  TrainOptions options_;
  std::vector<Slot> slots_;
  at::Tensor expert_tokens_;
  RouterCounter* counter_ = nullptr;
  int64_t steps_done_ = 0;
};

}  // namespace overproof
