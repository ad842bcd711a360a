#pragma once
// A training as the statement of its artifact describes it: built from inputs and configuration, one step after the other. The
// stage makes all its steps; an auditor builds the same and makes some of them again (distill/replay.h).
//
// Batch root: SHA-256("overproof batch v1" | for each window, in the order of the batch: U64 window | SHA-256 of its
// window_length + 1 ids as I32 | SHA-256 of the teacher's rows for it, or zeros where the teacher is run alongside).

#include <memory>
#include <optional>
#include <string>

#include "core/stage.h"
#include "data/corpus.h"
#include "data/order.h"
#include "distill/calibrate_stage.h"
#include "distill/distill_stage.h"
#include "distill/router_counts.h"
#include "distill/state_digest.h"
#include "distill/trainer.h"
#include "records/soft_targets.h"

namespace overproof {

class TrainingRun {
 public:
  virtual ~TrainingRun() = default;
  Decoder& student() { return student_; }
  Trainer& trainer() { return *trainer_; }
  const Corpus& corpus() const { return corpus_; }
  int64_t steps() const { return options_.steps; }
  /// Names of the loss terms of a record, in its order.
  virtual std::vector<std::string> terms() const = 0;
  int64_t step_tokens() const { return options_.batch_size * corpus_.window_length(); }
  const RouterCounter* routing() const { return counter_ ? &*counter_ : nullptr; }  ///< null for a dense student
  /// What can be said of a step without making it: position, tokens and learning rate.
  StepRecord plan(int64_t step) const;
  /// The next step of trainer(), and its record without any digest.
  virtual StepRecord step() = 0;
  virtual Digest batch_root(int64_t step) const = 0;

 protected:
  /// Opens the slots "corpus" and "student". Throws UsageError when they have different tokenizers.
  explicit TrainingRun(const Inputs& inputs);
  /// Makes trainer and counter, once the student is as it shall be trained.
  void begin(const TrainOptions& options);
  const TrainOptions& options() const { return options_; }
  /// `record` of trainer().step(), put in its place among the steps.
  StepRecord placed(StepRecord record) const;

  Corpus corpus_;
  Decoder student_;
  TokenSources sources_;

 private:
  TrainOptions options_;
  std::optional<RouterCounter> counter_;
  std::optional<Trainer> trainer_;
};

/// distill: the student of the slot "student" on the soft targets of "targets". Throws UsageError when targets, corpus and
/// student do not belong together.
class Distillation final : public TrainingRun {
 public:
  Distillation(const DistillConfig& config, const Inputs& inputs);
  std::vector<std::string> terms() const override { return {"forward-kl", "cross-entropy"}; }
  StepRecord step() override;
  Digest batch_root(int64_t step) const override;
  int64_t taught_windows() const { return targets_.blocks(); }

 private:
  double ce_weight_;
  SoftTargets targets_;
  std::optional<TrainingOrder> order_;
};

/// calibrate: the router and norms of "student", with the top-k that is asked for, on "teacher" run alongside.
class RouterCalibration final : public TrainingRun {
 public:
  RouterCalibration(const CalibrateConfig& config, const Inputs& inputs);
  std::vector<std::string> terms() const override { return {"forward-kl"}; }
  StepRecord step() override;
  Digest batch_root(int64_t step) const override;
  const Decoder& teacher() const { return teacher_; }
  int64_t given_top_k() const { return given_top_k_; }
  const Digest& order_key() const { return key_; }

 private:
  Decoder teacher_;
  int64_t given_top_k_ = 0;
  Digest key_;
  std::optional<Permutation> sample_;
};

/// The model of a slot. Throws UsageError when its tokenizer is not the corpus's.
Decoder open_model(const Inputs& inputs, const char* slot, const Corpus& corpus);

/// `count` windows of a split from place `first` of a keyed permutation on, going round when they run out: I64 [count, length].
/// Their numbers are appended to `numbers` unless that is null.
at::Tensor sampled_windows(const Corpus& corpus, Split split, const Permutation& sample, int64_t first, int64_t count,
                           std::vector<int64_t>* numbers = nullptr);

/// What a run keeps of its steps.
struct StepLog {
  std::string lines;                   ///< steps.jsonl
  std::optional<StepRecords> records;  ///< steps.safetensors; none when digests are off
};

struct TrainingRecording {
  std::string label;             ///< of the progress bar
  int64_t digest_every = 0;      ///< steps between digests of the state; 0: no records at all
  int64_t checkpoint_every = 0;  ///< steps between checkpoints that a killed run goes on from; 0: none
  int64_t keep_every = 0;        ///< steps between states that are kept for auditors; 0: none
};

/// Makes all steps, going on where a killed run left off. The last record is in `last`.
StepLog train_all(TrainingRun& run, const TrainingRecording& recording, const Outputs& outputs, StepRecord& last);

/// Writes steps.jsonl and, when there are records, steps.safetensors; adds "step_chain", "digest_every" and "segments" to the
/// metrics.
void write_step_log(const StepLog& log, OutputFolder& folder, Json& metrics);

}  // namespace overproof
