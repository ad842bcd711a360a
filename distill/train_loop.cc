#include "distill/train_loop.h"

#include <fmt/format.h>

#include <fstream>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/progress_note.h"
#include "core/real_path.h"
#include "distill/checkpoint.h"
#include "distill/state_digest.h"
#include "records/step_log.h"

namespace overproof {
namespace {

/// The step log while the training runs, for plots and for people; a reader sees every finished step. The artifact's own is written at
/// the end, and no stage reads this one, so a disk that is full here stops nothing.
class LiveLog {
 public:
  LiveLog(fs::path path, const std::string& so_far) : path_(std::move(path)) {
    fs::create_directories(path_.parent_path());
    file_.open(path_, std::ios::trunc);
    add(so_far);
  }
  ~LiveLog() {
    file_.close();
    std::error_code ignored;
    if (fs::is_empty(path_, ignored)) fs::remove(path_, ignored);
  }
  LiveLog(const LiveLog&) = delete;
  LiveLog& operator=(const LiveLog&) = delete;
  void add(const std::string& lines) { file_ << lines << std::flush; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::ofstream file_;
};

}  // namespace

StepLog train_all(Training& training, const TrainingRecording& recording, const Outputs& outputs, StepRecord& last) {
  Trainer& trainer = training.trainer();
  StepLog log;
  if (recording.keep_every > 0 && recording.digest_every == 0)
    throw UsageError("option 'keep-every' needs 'digest-every' above 0: a kept state is found by its digest");
  std::optional<StateDigester> digester;
  StepFormat format{.digest_every = recording.digest_every, .terms = training.terms(), .ranks = training.ranks(), .salted_batches = training.salts_batches()};
  if (recording.digest_every > 0) {
    digester.emplace(training.student(), trainer);
    format.initial_weights = digester->weights();
    log.records.emplace(format);
  }
  // The least that the result takes: 16 bits a weight. A disk that cannot hold it would be noticed after the last step.
  require_room(outputs.folder().path(), 2 * training.student().config().parameters());
  TrainingCheckpoint checkpoint(outputs.scratch(), outputs.stage_key());
  if (recording.checkpoint_every > 0 && checkpoint.read(training.steps(), trainer, log) && trainer.steps_done() > 0)
    progress_note(fmt::format("{}: resumes after step {} of {}", recording.label, trainer.steps_done(), training.steps()));
  LiveLog live(outputs.scratch() / kStepLogFile, log.lines);
  progress_note(fmt::format("{}: the log of the steps so far is {}", recording.label, live.path().string()));

  Progress progress(recording.label, training.steps() * training.step_tokens(), "tokens", trainer.steps_done() * training.step_tokens());
  // Counted from the last state that was digested, so that a resumed run keeps what an uninterrupted one does.
  int64_t kept = recording.keep_every > 0
                     ? trainer.steps_done() / recording.digest_every * recording.digest_every / recording.keep_every
                     : 0;
  while (trainer.steps_done() < training.steps()) {
    throw_if_interrupted();
    last = training.step();
    if (log.records) last.batch = training.batch_root(last.step);
    const int64_t done = trainer.steps_done();
    if (digester && (done % recording.digest_every == 0 || done == training.steps())) {
      last.weights = digester->weights();
      last.optimizer = digester->optimizer();
      // Only a state with digests can be found by them: the first one at or after every keep_every steps.
      if (recording.keep_every > 0 && done / recording.keep_every > kept && done < training.steps()) {
        keep_state(outputs.kept(), trainer, last.weights, last.optimizer);
        kept = done / recording.keep_every;
      }
    }
    const std::string line = step_log_line(format, last).dump() + "\n";
    log.lines += line;
    live.add(line);
    if (log.records) log.records->append(last);
    progress.update(done * training.step_tokens(), fmt::format("loss {:.3f}, balance {:.2f}", last.loss, last.balance));
    if (recording.checkpoint_every > 0 && done % recording.checkpoint_every == 0 && done < training.steps())
      checkpoint.write(trainer, log);
  }
  return log;
}

}  // namespace overproof
