#include "distill/training_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "distill/checkpoint.h"
#include "records/step_log.h"
#include "student/ffn.h"

namespace overproof {

Decoder open_model(const Inputs& inputs, const char* slot, const Corpus& corpus) {
  require_tokenizer(inputs.path(slot), corpus.tokenizer_probe(), "the corpus");
  return Decoder(open_checkpoint(inputs.path(slot)));
}

TrainingRun::TrainingRun(const Inputs& inputs)
    : corpus_(inputs.path("corpus")), student_(open_model(inputs, "student", corpus_)), sources_(corpus_) {}

void TrainingRun::begin(const TrainOptions& options) {
  options_ = options;
  trainer_.emplace(student_, options_);
  const ModelConfig& shape = student_.config();
  if (!shape.is_moe()) return;
  counter_.emplace(sources_.names(), shape.layers, shape.n_routed_experts);
  trainer_->count_routing(*counter_);
}

StepRecord TrainingRun::plan(int64_t step) const {
  StepRecord record;
  record.step = step;
  record.position = step * options_.batch_size;
  record.sequences = options_.batch_size;
  record.tokens = step_tokens();
  record.weight = double(record.tokens);
  record.tokens_seen = (step + 1) * step_tokens();
  record.learning_rate = learning_rate_at(options_, step);
  return record;
}

StepRecord TrainingRun::placed(StepRecord record) const {
  const StepRecord planned = plan(record.step);
  record.position = planned.position;
  record.tokens_seen = planned.tokens_seen;
  return record;
}

StepLog train_all(TrainingRun& run, const TrainingRecording& recording, const Outputs& outputs, StepRecord& last) {
  Trainer& trainer = run.trainer();
  StepLog log;
  if (recording.keep_every > 0 && recording.digest_every == 0)
    throw UsageError("keep-every needs digest-every: a state that is kept is found by its digest");
  std::optional<StateDigester> digester;
  StepFormat format{.digest_every = recording.digest_every, .terms = run.terms()};
  if (recording.digest_every > 0) {
    digester.emplace(run.student(), trainer);
    format.initial_weights = digester->weights();
    log.records.emplace(format);
  }
  TrainingCheckpoint checkpoint(outputs.scratch(), outputs.stage_key());
  if (recording.checkpoint_every > 0) checkpoint.read(run.steps(), trainer, log);

  Progress progress(recording.label, run.steps() * run.step_tokens(), "tokens", trainer.steps_done() * run.step_tokens());
  // Counted from the last state that was digested, so that a resumed run keeps what an uninterrupted one does.
  int64_t kept = recording.keep_every > 0
                     ? trainer.steps_done() / recording.digest_every * recording.digest_every / recording.keep_every
                     : 0;
  while (trainer.steps_done() < run.steps()) {
    throw_if_interrupted();
    last = run.step();
    if (log.records) last.batch = run.batch_root(last.step);
    const int64_t done = trainer.steps_done();
    if (digester && (done % recording.digest_every == 0 || done == run.steps())) {
      last.weights = digester->weights();
      last.optimizer = digester->optimizer();
      // Only a state that has digests can be found by them: the first such at or after every keep_every steps.
      if (recording.keep_every > 0 && done / recording.keep_every > kept && done < run.steps()) {
        keep_state(outputs.kept(), trainer, last.weights, last.optimizer);
        kept = done / recording.keep_every;
      }
    }
    log.lines += step_log_line(format, last).dump() + "\n";
    if (log.records) log.records->append(last);
    progress.update(done * run.step_tokens(), fmt::format("loss {:.3f}, balance {:.2f}", last.loss, last.balance));
    if (recording.checkpoint_every > 0 && done % recording.checkpoint_every == 0 && done < run.steps())
      checkpoint.write(trainer, log);
  }
  return log;
}

void write_step_log(const StepLog& log, OutputFolder& folder, Json& metrics) {
  folder.write_file(kStepLogFile, log.lines);
  if (!log.records) return;
  write_step_records(*log.records, folder);
  metrics["step_chain"] = log.records->chain().hex();
  metrics["digest_every"] = log.records->digest_every();
  metrics["segments"] = log.records->segment_ends().size() - 1;
}

}  // namespace overproof
