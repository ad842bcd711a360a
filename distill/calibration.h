#pragma once
// The training of `calibrate`, built from its inputs and configuration.

#include <memory>

#include "distill/calibrate_stage.h"
#include "distill/training.h"

namespace overproof {

struct RouterCalibration {
  std::shared_ptr<const Corpus> corpus;
  std::shared_ptr<const TeacherSignal> measuring;  ///< the teacher itself, which held-out tokens are measured against
  Training training;
  int64_t given_top_k;  ///< of the student before
  Digest order_key;     ///< of the permutations that choose windows
  double speed = 0;     ///< tokens/s that were measured with the chosen top-k for `target-speed`; 0: nothing was measured
};

/// The chosen groups of "student", with the top-k that the configuration asks for, on "targets" in their order, or without them on
/// "teacher" run alongside. Throws
/// MismatchError when the inputs do not belong together or cannot be calibrated, UsageError.
RouterCalibration make_calibration(const CalibrateConfig& config, const Inputs& inputs);

/// Mean over tokens of |A and B| / |A or B| for two choices I32 [tokens, k] of ascending ids.
double routing_overlap(const at::Tensor& a, const at::Tensor& b);

}  // namespace overproof
