#include "distill/calibrate_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "distill/activation_curve.h"
#include "distill/calibration.h"
#include "distill/held_out.h"
#include "distill/state_digest.h"
#include "distill/train_loop.h"
#include "distill/trained_files.h"
#include "model/open_model.h"

namespace overproof {
namespace {

Json load_rows(const at::Tensor& load) {
  Json layers = Json::array();
  for (int64_t l = 0; l < load.size(0); ++l) {
    Json row = Json::array();
    for (int64_t e = 0; e < load.size(1); ++e) row.push_back(load[l][e].item<double>());
    layers.push_back(std::move(row));
  }
  return layers;
}

struct FewTokens {
  int64_t layer = 0, expert = 0, tokens = 0;
};

/// Experts that got fewer tokens than the minimum, in the tuning, or without steps on the held-out windows.
std::vector<FewTokens> experts_with_few(const CalibrateConfig& config, const Training& training, const RoutingMeasure& held_out, int64_t held_out_tokens) {
  std::vector<FewTokens> few;
  const ModelConfig& shape = training.student().config();
  const bool tuned = training.routing() && training.steps() > 0;
  const std::optional<RouterCounts> counts = tuned ? std::optional(training.routing()->result()) : std::nullopt;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    std::vector<int64_t> tokens;
    int64_t sum = 0;
    for (int64_t expert = 0; expert < shape.n_routed_experts; ++expert) {
      tokens.push_back(counts ? counts->of_expert(layer, expert)
                              : std::llround(held_out.load[layer][expert].item<double>() * double(held_out_tokens * shape.top_k)));
      sum += tokens.back();
    }
    if (sum == 0) continue;  // a dense layer
    for (int64_t expert = 0; expert < shape.n_routed_experts; ++expert)
      if (tokens[size_t(expert)] < config.min_tokens) few.push_back({layer, expert, tokens[size_t(expert)]});
  }
  return few;
}

std::string few_tokens_text(const std::vector<FewTokens>& few, int64_t least, bool tuned) {
  const char* where = tuned ? "of the tuning" : "of the held-out windows";
  if (few.empty()) return fmt::format("every expert got at least {} tokens {}", least, where);
  std::string list;
  for (size_t i = 0; i < few.size() && i < 8; ++i)
    list += fmt::format("{}layer {} expert {}: {}", i == 0 ? "" : ", ", few[i].layer, few[i].expert, few[i].tokens);
  return fmt::format("warning: {} experts got fewer than {} tokens {} ({}{}); more steps or a larger batch give them more", few.size(), least, where, list,
                     few.size() > 8 ? ", ..." : "");
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
  const RoutingMeasure before = measure_routing(student, *calibration.measuring, held_out);
  std::optional<Decoder> original;  // before it was quantized
  RoutingMeasure of_original;
  if (inputs.has("original")) {
    original.emplace(open_model_for(*calibration.corpus, inputs, "original"));
    if (original->config().layers != shape.layers || original->config().n_routed_experts != shape.n_routed_experts)
      throw MismatchError("student and original have other numbers of layers or experts, so they do not choose the same experts");
    original->set_active_experts(shape.top_k);
    of_original = measure_routing(*original, *calibration.measuring, held_out);
    original.reset();
  }
  std::vector<CurvePoint> curve;
  if (config.curve) {
    const std::vector<int64_t> ks = curve_steps(shape.n_routed_experts, shape.top_k);
    Progress progress("curve", int64_t(ks.size()), "points");
    curve = activation_curve(student, *calibration.measuring, held_out, ks, [&](int64_t done) { progress.update(done); });
  }

  const Trainer& trainer = training.trainer();
  const DType dtype = written_dtype(options.dtype, open_checkpoint(inputs.path("student")));
  const auto kept = keep_tuned(student);
  StepRecord last;
  const StepLog log =
      train_all(training, {"calibrate", digest_interval(options.digest_every, training.step_tokens()), 0, options.keep_every},
                outputs, last);

  round_weights(student, dtype);
  const RoutingMeasure after = options.steps > 0 ? measure_routing(student, *calibration.measuring, held_out) : before;
  const bool keep = after.kl <= before.kl;  // false for NaN as well
  at::NoGradGuard no_grad;
  if (!keep) {
    for (auto [tensor, value] : kept) tensor.copy_(value);
    round_weights(student, dtype);
  }
  save_decoder(student, outputs.folder(), dtype);
  write_companions(inputs.path("student"), options.repetition_penalty, outputs.folder());
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
  if (inputs.has("original")) {
    report.metrics()["original_kl"] = of_original.kl;
    report.metrics()["original_overlap_before"] = mean_overlap(of_original, before);
    report.metrics()["original_overlap"] = mean_overlap(of_original, keep ? after : before);
  }
  const std::vector<FewTokens> few = experts_with_few(config, training, keep ? after : before, held_out_tokens);
  if (config.min_tokens > 0) {
    Json list = Json::array();
    for (const FewTokens& one : few) list.push_back({{"layer", one.layer}, {"expert", one.expert}, {"tokens", one.tokens}});
    report.metrics()["experts_below_minimum"] = std::move(list);
  }
  if (config.curve) {
    const Json points = curve_json(curve, shape.top_k);
    outputs.folder().write_file("curve.json", points.dump(1) + "\n");
    outputs.folder().write_file("curve.svg", curve_svg(curve, shape.top_k));
    report.metrics()["curve"] = points;
  }
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
  if (calibration.speed > 0)
    report.summary.push_back(fmt::format("{:.1f} tokens/s written with top-k {} on this machine; asked for {:.1f}", calibration.speed, shape.top_k, config.target_speed));
  if (inputs.has("original"))
    report.summary.push_back(fmt::format("before quantization the KL is {:.4f} with this top-k; {:.1f} % of its chosen experts are chosen in 8 bits before tuning, {:.1f} % after (Jaccard)",
                                         of_original.kl, 100 * mean_overlap(of_original, before), 100 * mean_overlap(of_original, keep ? after : before)));
  if (config.curve) {
    const auto knee = knee_of(curve);
    report.summary.push_back(knee ? fmt::format("curve of {} points in curve.svg; its knee is top-k {} ({:.1f} % of the FFN neurons, KL {:.4f})", curve.size(), curve[*knee].top_k,
                                                100 * curve[*knee].activation, curve[*knee].kl)
                                  : fmt::format("curve of {} points in curve.svg; it has no knee", curve.size()));
  }
  if (config.min_tokens > 0) report.summary.push_back(few_tokens_text(few, config.min_tokens, options.steps > 0));
  report.summary.push_back(compute.summary());
  if (!keep) report.summary.emplace_back("tuning raised the held-out KL, so it was undone: the weights are those before it");
  return report;
}

}  // namespace overproof
