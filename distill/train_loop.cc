#include "distill/train_loop.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/progress_note.h"
#include "core/real_path.h"
#include "distill/checkpoint.h"
#include "distill/live_log.h"
#include "distill/state_digest.h"
#include "records/step_log.h"

namespace overproof {
namespace {

constexpr const char* kHeldOut = "held_out";  // of a line of steps.jsonl

/// The evaluations of a resumed training, from its own log.
void read_evaluations(const std::string& lines, HeldOutTrack& track) {
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    const Json line = Json::parse(lines.substr(at, end - at));
    if (line.contains(kHeldOut)) track.add(line.at("step").get<int64_t>(), line[kHeldOut]);
    at = end + 1;
  }
}

}  // namespace

StepLog train_all(Training& training, const TrainingRecording& recording, const Outputs& outputs, StepRecord& last) {
  Trainer& trainer = training.trainer();
  StepLog log{.held_out = {.patience = recording.patience}};
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
  if (recording.checkpoint_every > 0 && checkpoint.read(training.steps(), trainer, log) && trainer.steps_done() > 0) {
    progress_note(fmt::format("{}: resumes after step {} of {}", recording.label, trainer.steps_done(), training.steps()));
    read_evaluations(log.lines, log.held_out);
  }
  LiveLog live(outputs.logs(), log.lines);
  progress_note(fmt::format("{}: the log of the steps so far is {}", recording.label, live.path().string()));

  Progress progress(recording.label, training.steps() * training.step_tokens(), "tokens", trainer.steps_done() * training.step_tokens());
  // Counted from the last state that was digested, so that a resumed run keeps what an uninterrupted one does.
  int64_t kept = recording.keep_every > 0
                     ? trainer.steps_done() / recording.digest_every * recording.digest_every / recording.keep_every
                     : 0;
  while (trainer.steps_done() < training.steps() && !log.held_out.stops()) {
    throw_if_interrupted();
    last = training.step();
    if (log.records) last.batch = training.batch_root(last.step);
    const int64_t done = trainer.steps_done();
    Json held_out;
    if (recording.held_out && (done % recording.evaluate_every == 0 || done == training.steps())) {
      held_out = recording.held_out->measure(training);
      log.held_out.add(last.step, held_out);
    }
    const bool ends = done == training.steps() || log.held_out.stops();
    if (digester && (done % recording.digest_every == 0 || ends)) {
      last.weights = digester->weights();
      last.optimizer = digester->optimizer();
      // Only a state with digests can be found by them: the first one at or after every keep_every steps.
      if (recording.keep_every > 0 && done / recording.keep_every > kept && !ends) {
        keep_state(outputs.kept(), trainer, last.weights, last.optimizer);
        kept = done / recording.keep_every;
      }
    }
    Json line = step_log_line(format, last);
    if (!held_out.is_null()) line[kHeldOut] = held_out;
    if (training.reward()) line[kRewardName] = *training.reward();
    log.lines += line.dump() + "\n";
    live.add(line);
    if (log.records) log.records->append(last);
    progress.update(done * training.step_tokens(), fmt::format("loss {:.3f}, balance {:.2f}{}", last.loss, last.balance,
                                                                             training.reward() ? fmt::format(", reward {:.2f}", *training.reward()) : ""));
    if (recording.checkpoint_every > 0 && done % recording.checkpoint_every == 0 && !ends) checkpoint.write(trainer, log);
  }
  return log;
}

}  // namespace overproof
