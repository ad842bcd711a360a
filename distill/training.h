#pragma once
// A training as the statement of its artifact describes it: batches, a teacher's signal, losses and a trainer, one step after
// another. distill and calibrate build one from inputs and configuration (distillation.h, calibration.h) and make all its steps
// (train_loop.h); an auditor builds the same and makes some of them again (replay.h).

#include <memory>
#include <optional>
#include <vector>

#include "core/stage.h"
#include "data/corpus.h"
#include "data/token_batch.h"
#include "distill/losses/inner.h"
#include "distill/losses/losses.h"
#include "distill/router_counter.h"
#include "distill/trainer.h"
#include "model/decoder.h"
#include "records/step_records.h"
#include "teacher/signal.h"

namespace overproof {

class Training {
 public:
  /// Trains `student` as it is now; the number of steps is that of `batches`. Where the vocabularies of student and signal differ in
  /// size the larger one is padding, left out of the softmax (logits of minus infinity): a row of targets that names padding is a
  /// MismatchError of its step. Throws UsageError when a loss cannot use targets of the signal's kind or what it needs to see is not there.
  Training(std::unique_ptr<Decoder> student, std::unique_ptr<BatchSource> batches, std::unique_ptr<TeacherSignal> signal,
           LossTerms losses, const TrainOptions& options, std::shared_ptr<const Group> group = single_process_group());

  Decoder& student() { return *student_; }
  const Decoder& student() const { return *student_; }
  Trainer& trainer() { return *trainer_; }
  const TeacherSignal& signal() const { return *signal_; }
  std::vector<std::string> terms() const;  ///< names of the loss terms of a record, in its order
  int64_t ranks() const { return group_->size(); }
  int64_t steps() const { return batches_->steps(); }
  int64_t step_tokens() const { return batches_->step_tokens(); }
  const RouterCounter* routing() const { return counter_.get(); }  ///< null for a dense student

  /// Whether a step's batch follows from inputs and configuration (BatchSource::follows).
  bool follows(int64_t step) const { return batches_->follows(step); }
  /// What follows from inputs and configuration alone: position, tokens and learning rate of a step, and its weight where the batch does.
  StepRecord plan(int64_t step) const;
  /// Makes the next step. Its record has no digests. Throws DivergenceError.
  StepRecord step();
  /// Digest of a step's batch and of the teacher's rows for it; of a private corpus salted. A batch that the student wrote is that of the
  /// last step() only.
  Digest batch_root(int64_t step) const;
  /// The mean reward of what the student wrote in the last step(); nothing where no verifier judged it.
  std::optional<double> reward() const { return reward_; }
  /// The salt of a private corpus (data/private_corpus.h), before the first step.
  void salt_batches(const std::optional<Digest>& salt) { batch_salt_ = salt; }
  bool salts_batches() const { return batch_salt_.has_value(); }

 private:
  void prepare_inside();
  TrainOptions options_;
  std::unique_ptr<Decoder> student_;
  std::unique_ptr<BatchSource> batches_;
  std::pair<int64_t, TokenBatch> written_{-1, {}};  // the last batch that the student wrote, after its step
  std::unique_ptr<TeacherSignal> signal_;
  LossTerms losses_;
  std::shared_ptr<const Group> group_;
  std::unique_ptr<RouterCounter> counter_;
  std::unique_ptr<Trainer> trainer_;
  std::vector<at::Tensor> projections_;  // of the losses that compare layers, where widths differ
  std::optional<Digest> batch_salt_;
  std::optional<double> reward_;
};

/// The losses of the sequences [first, first + count) of a batch, from the student's hidden states [count x length, hidden]. Those of
/// what is inside the models are computed only when `inner` is given: without weight and the teacher's layers, which this fills in.
LossSums batch_loss(const TokenBatch& batch, const TeacherSignal& signal, int64_t first, int64_t count, const at::Tensor& hidden,
                    const at::Tensor& head, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head,
                    InnerRows* inner = nullptr, at::Tensor* inner_loss = nullptr);

}  // namespace overproof
