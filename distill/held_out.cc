#include "distill/held_out.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "distill/labels_signal.h"

namespace overproof {
namespace {

constexpr uint64_t kHeldOutTweak = 0x68656c646f757421;  // larger than any number of an epoch

}  // namespace

std::unique_ptr<WindowBatches> held_out_windows(std::shared_ptr<const Corpus> corpus, const Digest& order_key, int64_t count) {
  const int64_t available = corpus->windows(Split::held_out);
  if (available < 1) throw MismatchError("the corpus has no held-out window to measure on; make it with held-out above 0");
  return std::make_unique<WindowBatches>(std::move(corpus), Split::held_out,
                                         order_of(Permutation(order_key, kHeldOutTweak, available), available), 1,
                                         std::min(count, available));
}

HeldOutLoss::HeldOutLoss(std::unique_ptr<WindowBatches> windows, std::unique_ptr<TeacherSignal> teacher)
    : windows_(std::move(windows)), teacher_(std::move(teacher)) {}

Json HeldOutLoss::measure(Training& training) const {
  at::NoGradGuard no_grad;
  const Decoder& student = training.student();
  const std::unique_ptr<TeacherSignal> labels_only = teacher_ ? nullptr : labels_signal(student.config().vocab_size);
  const TeacherSignal& signal = teacher_ ? *teacher_ : *labels_only;
  LossOptions options;
  options.terms = {{&kCrossEntropy, 1.0}};
  if (teacher_) {
    const std::vector<TargetKind> kinds = teacher_->kinds();
    const bool aligned = std::ranges::find(kinds, TargetKind::aligned) != kinds.end();
    options.terms.insert(options.terms.begin(), LossTerm{aligned ? &kMergedKl : &kForwardKl, 1.0});
  }
  options.gradient = false;
  LossSums sums;
  training.trainer().swap_average();
  for (int64_t w = 0; w < windows_->steps(); ++w) {
    throw_if_interrupted();
    const TokenBatch window = windows_->at(w);
    sums += batch_loss(window, signal, 0, 1, student.hidden(input_ids(window, 0, 1)), student.head(), options, nullptr, nullptr);
  }
  training.trainer().swap_average();
  Json values = Json::object();
  for (size_t t = 0; t < options.terms.size(); ++t)
    values[std::string(options.terms[t].loss->name)] = sums.values[t] / sums.weight;
  return values;
}

void HeldOutTrack::add(int64_t step, const Json& measured) {
  const char* name = measured.contains("forward-kl") ? "forward-kl" : measured.contains("merged-kl") ? "merged-kl" : "cross-entropy";
  const double value = measured.at(name).get<double>();
  ++count;
  ++since_best;
  if (!(value < best)) return;
  best = value;
  best_step = step;
  since_best = 0;
}

}  // namespace overproof
