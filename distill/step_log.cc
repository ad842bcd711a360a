#include "distill/step_log.h"

#include "core/json.h"
#include "records/step_log.h"

namespace overproof {

void write_step_log(const StepLog& log, OutputFolder& folder, Json& metrics) {
  folder.write_file(kStepLogFile, log.lines);
  if (const HeldOutTrack& t = log.held_out; t.count > 0)
    metrics["held_out"] = {{"evaluations", t.count}, {"best", t.best}, {"best_step", t.best_step}, {"stopped_early", t.stops()}};
  if (!log.records) return;
  write_step_records(*log.records, folder);
  metrics["step_chain"] = log.records->chain().hex();
  metrics["digest_every"] = log.records->digest_every();
  metrics["segments"] = log.records->segment_ends().size() - 1;
}

}  // namespace overproof
