#pragma once
// Losses on held-out windows of the corpus, which no training reads: measured by calibrate before and after, and by distill while it
// trains.

#include <cstdint>
#include <limits>
#include <memory>

#include "core/digest.h"
#include "core/json_fwd.h"
#include "data/corpus.h"
#include "data/token_batch.h"
#include "distill/training.h"
#include "teacher/signal.h"

namespace overproof {

/// Up to `count` held-out windows, one a batch, chosen by the key. Throws MismatchError when the corpus has none.
std::unique_ptr<WindowBatches> held_out_windows(std::shared_ptr<const Corpus> corpus, const Digest& order_key, int64_t count);

class HeldOutLoss {
 public:
  /// `teacher` may be null: then there is no KL.
  HeldOutLoss(std::unique_ptr<WindowBatches> windows, std::unique_ptr<TeacherSignal> teacher);
  /// {"cross-entropy": nats a token, "forward-kl": nats a token from the teacher at temperature 1, where there is one; "merged-kl" where one
  /// has another tokenizer}. With `ema` of
  /// the averaged weights, which are those that are published.
  Json measure(Training& training) const;

 private:
  std::unique_ptr<WindowBatches> windows_;
  std::unique_ptr<TeacherSignal> teacher_;
};

/// The evaluations of a training: when it stops early, and what it reports.
struct HeldOutTrack {
  int64_t patience = 0;  ///< evaluations without a new best value until the training stops; 0: it never does
  int64_t count = 0, best_step = -1, since_best = 0;
  double best = std::numeric_limits<double>::infinity();
  /// What HeldOutLoss measured after step `step` (from 0): the KL counts, without a teacher the cross-entropy.
  void add(int64_t step, const Json& measured);
  bool stops() const { return patience > 0 && since_best >= patience; }
};

}  // namespace overproof
