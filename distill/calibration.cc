#include "distill/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/private_corpus.h"
#include "distill/teachers.h"
#include "model/open_model.h"

namespace overproof {
namespace {

constexpr uint64_t kTrainTweak = 0x63616c6962726174;  // larger than any number of an epoch

}  // namespace

int64_t top_k_for_activation(double target, int64_t experts, int64_t shared) {
  return std::clamp<int64_t>(std::llround(target * double(experts + shared)) - shared, 1, experts);
}

RouterCalibration make_calibration(const CalibrateConfig& config, const Inputs& inputs) {
  auto corpus = std::make_shared<const Corpus>(inputs.path("corpus"));
  auto student = std::make_unique<Decoder>(open_model_for(*corpus, inputs, "student"));
  const auto teacher = std::make_shared<const Decoder>(open_model_for(*corpus, inputs, "teacher"));
  const ModelConfig& shape = student->config();
  const int64_t windows = corpus->windows(Split::train);
  if (!shape.is_moe()) throw MismatchError("the student has no routed experts, so there is no router to calibrate");
  if (corpus->windows(Split::held_out) < 1)
    throw MismatchError("the corpus has no held-out window to measure the calibration on; make it with held-out above 0");
  if (windows < 1) throw MismatchError("the corpus has no training window to calibrate with");
  const int64_t given = shape.top_k;
  student->set_active_experts(top_k_for_activation(config.target_activation, shape.n_routed_experts, shape.n_shared_experts));
  const Digest key = order_key(inputs.root("corpus"), config.seed);
  WindowSequence order = order_of(Permutation(key, kTrainTweak, windows), windows);
  std::unique_ptr<TeacherSignal> signal = live_signal(teacher);
  if (inputs.has("targets")) {
    const auto targets = open_targets(*corpus, inputs);
    order = order_of(TrainingOrder(targets->order_key(), windows, targets->blocks()));
    signal = stored_signal(targets, windows);
  }
  auto batches = std::make_unique<WindowBatches>(corpus, Split::train, std::move(order), config.training.batch_size,
                                                 config.training.steps);
  Training training(std::move(student), std::move(batches), std::move(signal), {{&kForwardKl, 1.0}}, config.training);
  training.salt_batches(corpus_batch_salt(inputs.path("corpus")));
  return {std::move(corpus), live_signal(teacher), std::move(training), given, key};
}

}  // namespace overproof
