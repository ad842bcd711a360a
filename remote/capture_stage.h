#pragma once
// Stage "capture": asks a teacher behind a URL about the windows of a corpus, and stores its log-probabilities as soft targets
// (records/soft_targets.h, kind top-k, evidence "recorded").
//
//   checkpoints/answers-<root>.ledger   next to the artifact: every answer that was paid for (records/answer_ledger.h). It belongs to no
//                                       artifact; as long as it is there, no answer in it is paid for again

#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "remote/caller.h"
#include "remote/capture_plan.h"

namespace overproof {

struct CaptureConfig {
  int64_t tokens = 49152, seed = 0;
  std::string order_beacon;
  double least_coverage = 0.5;
  CallOptions call;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, at_least(1), "tokens to ask about, rounded down to whole windows; at most one pass over the corpus");
    v("seed", seed, seed_value(), "seed of the order of windows");
    v("order-beacon", order_beacon, any_value(),
      "public randomness in hex from after the corpus was published; the order of training then depends on it, too");
    v("least-coverage", least_coverage, in_range(0, 1),
      "share of the tokens that must get targets; a server that takes text has none for windows whose tokens no text has");
    call.visit(v);
  }
};

/// What a capture would ask for, without asking. `kept`: the folder of the ledger. Throws as run_capture does before its first request.
CaptureCount count_capture(const CaptureConfig& config, const Inputs& inputs, const fs::path& kept);

/// Slots: teacher, an artifact of `connect`; corpus. A killed run resumes: an answer that is in the ledger is not asked for again. Throws
/// MismatchError when the teacher gives no log-probabilities, has another tokenizer than the corpus or answers as another model;
/// QualityError when the token budget is reached or too few tokens get targets; otherwise as Caller::call.
StageReport run_capture(const CaptureConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
