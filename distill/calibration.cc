#include "distill/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/private_corpus.h"
#include "distill/activation_curve.h"
#include "distill/held_out.h"
#include "distill/teachers.h"
#include "model/decode_speed.h"
#include "model/open_model.h"

namespace overproof {
namespace {

constexpr uint64_t kTrainTweak = 0x63616c6962726174;  // larger than any number of an epoch

}  // namespace

int64_t top_k_for_activation(double target, int64_t experts, int64_t shared) {
  return std::clamp<int64_t>(std::llround(target * double(experts + shared)) - shared, 1, experts);
}

namespace {

void require_one_target(const CalibrateConfig& config) {
  if ((config.target_kl > 0) + (config.target_speed > 0) > 1)
    throw UsageError("calibrate: options 'target-kl' and 'target-speed' both choose the number of experts; give one");
}

/// The least number of experts with which the KL on held-out windows is at most the target.
int64_t top_k_for_kl(const CalibrateConfig& config, Decoder& student, const std::shared_ptr<const Decoder>& teacher, const std::shared_ptr<const Corpus>& corpus,
                     const Digest& key) {
  const auto windows = held_out_windows(corpus, key, config.held_out_windows);
  const auto signal = live_signal(teacher);
  const int64_t experts = student.config().n_routed_experts;
  Progress progress("target-kl", experts, "numbers of experts");
  double kl = 0;
  for (int64_t k = 1; k <= experts; ++k) {
    student.set_active_experts(k);
    kl = measure_routing(student, *signal, *windows).kl;
    progress.update(k, fmt::format("KL {:.4f}", kl));
    if (kl <= config.target_kl) return k;
  }
  throw QualityError(fmt::format("no number of experts holds a KL of {}: with all {} it is {:.4f} before tuning. Recover or distill the student first, or give a "
                                 "larger option 'target-kl'",
                                 config.target_kl, experts, kl));
}

/// The largest number of experts with which the student is written at the target speed, by bisection.
int64_t top_k_for_speed(const CalibrateConfig& config, const fs::path& student, const Corpus& corpus, int64_t experts, double& speed) {
  const Checkpoint checkpoint = open_checkpoint(student);
  if (!checkpoint.config->contains("num_experts_per_tok"))
    throw MismatchError(fmt::format("{}: its config.json has no 'num_experts_per_tok'; give option 'top-k'", student.string()));
  std::vector<int64_t> window(size_t(corpus.window_length()) + 1);
  corpus.read_window(Split::held_out, 0, window);
  const std::vector<int32_t> prompt(window.begin(), window.begin() + std::min<int64_t>(16, corpus.window_length()));
  std::map<int64_t, double> measured;
  const auto speed_of = [&](int64_t k) {
    (*checkpoint.config)["num_experts_per_tok"] = k;
    const Generator model(checkpoint);
    return measured[k] = std::max(decode_speed(model, prompt), decode_speed(model, prompt));  // the first also warms up
  };
  if (speed_of(1) < config.target_speed)
    throw QualityError(fmt::format("with one expert a token {:.1f} tokens are written a second here, less than option 'target-speed' of {:.1f}", measured[1], config.target_speed));
  int64_t low = 1, high = experts + 1;  // low holds the target, high does not or is too many
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (speed_of(middle) >= config.target_speed ? low : high) = middle;
  }
  speed = measured.at(low);
  return low;
}

}  // namespace

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
  require_one_target(config);
  const Digest key = order_key(inputs.root("corpus"), config.seed);
  double speed = 0;
  if (config.top_k > shape.n_routed_experts)
    throw UsageError(fmt::format("calibrate: option 'top-k' is {}, and the student has {} routed experts", config.top_k, shape.n_routed_experts));
  student->set_active_experts(config.top_k > 0        ? config.top_k
                              : config.target_kl > 0 ? top_k_for_kl(config, *student, teacher, corpus, key)
                              : config.target_speed > 0
                                  ? top_k_for_speed(config, inputs.path("student"), *corpus, shape.n_routed_experts, speed)
                                  : top_k_for_activation(config.target_activation, shape.n_routed_experts,
                                                         shape.shared_width() / shape.moe_intermediate_size));
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
  return {std::move(corpus), live_signal(teacher), std::move(training), given, key, speed};
}

}  // namespace overproof
