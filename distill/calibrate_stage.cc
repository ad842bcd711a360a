#include "distill/calibrate_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer_files.h"
#include "distill/calibration.h"
#include "distill/held_out.h"
#include "distill/state_digest.h"
#include "distill/train_loop.h"
#include "distill/trained_files.h"

namespace overproof {
namespace {

struct HeldOut {
  double kl = 0;                     // nats a token
  std::vector<at::Tensor> selected;  // per layer and window, I32 [tokens, k]
  at::Tensor load;                   // F64 [layers, experts], fractions
};

HeldOut measure(const Training& training, const TeacherSignal& teacher, const BatchSource& windows) {
  at::NoGradGuard no_grad;
  HeldOut result;
  const Decoder& student = training.student();
  const ModelConfig& shape = student.config();
  result.load = at::zeros({shape.layers, shape.n_routed_experts}, at::kDouble);
  LossOptions value_only;
  value_only.gradient = false;
  LossSums sums;
  for (int64_t w = 0; w < windows.steps(); ++w) {
    throw_if_interrupted();
    std::vector<RouterRecord> routing;
    ForwardOptions options;
    options.routing = &routing;
    options.record_selected = true;
    const TokenBatch window = windows.at(w);
    options.segments = input_segments(window, 0, 1);
    const at::Tensor hidden = student.hidden(input_ids(window, 0, 1), options);
    sums += batch_loss(window, teacher, 0, 1, hidden, student.head(), value_only, nullptr, nullptr);
    for (size_t l = 0; l < routing.size(); ++l) {
      result.load[int64_t(l)].add_(routing[l].load);
      result.selected.push_back(routing[l].selected);
    }
  }
  result.load.div_(result.load.sum(1, true).clamp_min(1));
  if (sums.weight == 0) throw MismatchError("the corpus masks every token of the held-out windows, so there is nothing to measure");
  result.kl = sums.values.at(0) / sums.weight;
  return result;
}

double mean_overlap(const HeldOut& a, const HeldOut& b) {
  double sum = 0;
  for (size_t i = 0; i < a.selected.size(); ++i) sum += routing_overlap(a.selected[i], b.selected[i]);
  return sum / double(std::max<size_t>(1, a.selected.size()));
}

Json load_rows(const at::Tensor& load) {
  Json layers = Json::array();
  for (int64_t l = 0; l < load.size(0); ++l) {
    Json row = Json::array();
    for (int64_t e = 0; e < load.size(1); ++e) row.push_back(load[l][e].item<double>());
    layers.push_back(std::move(row));
  }
  return layers;
}

// Copies of what tuning may change, so that it can be undone.
std::vector<std::pair<at::Tensor, at::Tensor>> keep_tuned(const Decoder& student) {
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  for (const NamedTensor& p : student.parameters())
    if (p.tensor.requires_grad() || trained_group(p.name).empty()) kept.emplace_back(p.tensor, p.tensor.detach().clone());
  return kept;
}

}  // namespace

StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const TrainOptions& options = config.training;
  RouterCalibration calibration = make_calibration(config, inputs);
  Training& training = calibration.training;
  Decoder& student = training.student();
  const ModelConfig& shape = student.config();
  const ComputeChoice compute = use_compute(options.compute, shape.hidden_size, outputs);
  const auto windows = held_out_windows(calibration.corpus, calibration.order_key, config.held_out_windows);
  const WindowBatches& held_out = *windows;
  const int64_t held_out_tokens = held_out.steps() * held_out.step_tokens();
  const HeldOut before = measure(training, *calibration.measuring, held_out);

  const Trainer& trainer = training.trainer();
  const DType dtype = written_dtype(options.dtype, open_checkpoint(inputs.path("student")));
  const auto kept = keep_tuned(student);
  StepRecord last;
  const StepLog log =
      train_all(training, {"calibrate", digest_interval(options.digest_every, training.step_tokens()), 0, options.keep_every},
                outputs, last);

  round_weights(student, dtype);
  const HeldOut after = options.steps > 0 ? measure(training, *calibration.measuring, held_out) : before;
  const bool keep = after.kl <= before.kl;  // false for NaN as well
  at::NoGradGuard no_grad;
  if (!keep) {
    for (auto [tensor, value] : kept) tensor.copy_(value);
    round_weights(student, dtype);
  }
  save_decoder(student, outputs.folder(), dtype);
  copy_companions(inputs.path("student"), outputs.folder());
  write_trained_counts(training, inputs.path("student"), keep, outputs.folder());

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  const double overlap = mean_overlap(before, after);
  StageReport report;
  report.metrics() = {{"top_k", shape.top_k},
                      {"given_top_k", calibration.given_top_k},
                      {"ffn_activation", shape.ffn_activation()},
                      {"active_fraction", active},
                      {"steps", options.steps},
                      {"tokens", options.steps * training.step_tokens()},
                      {"tuned_parameters", trainer.trained_parameters()},
                      {"held_out_tokens", held_out_tokens},
                      {"evidence", evidence_name(training.signal().evidence())},
                      {"kl_before", before.kl},
                      {"kl_after", after.kl},
                      {"tuning_kept", keep},
                      {"routing_overlap", overlap},
                      {"expert_load", load_rows(keep ? after.load : before.load)},
                      {kComputeMetric, compute.name()}};
  write_step_log(log, outputs.folder(), report.metrics());
  record_dtype(report.metrics(), dtype);
  if (log.records && dtype != DType::f32) report.metrics()[kPublishedWeights] = digest_of_weights(student).hex();
  report.summary = {
      fmt::format("top-k {} (was {}): {:.1f} % of the FFN neurons, {:.1f} % of all parameters active", shape.top_k,
                  calibration.given_top_k, 100 * shape.ffn_activation(), 100 * active),
      fmt::format("held-out KL to the teacher {:.4f} before tuning, {:.4f} after ({} tokens)", before.kl, after.kl,
                  held_out_tokens),
      fmt::format("routing overlap before and after (Jaccard) {:.3f}; largest expert load {:.2f} of the mean", overlap,
                  ((keep ? after : before).load.amax({1}).mean() * double(shape.n_routed_experts)).item<double>())};
  report.summary.push_back(compute.summary());
  if (!keep) report.summary.emplace_back("tuning raised the held-out KL, so it was undone: the weights are those before it");
  return report;
}

}  // namespace overproof
