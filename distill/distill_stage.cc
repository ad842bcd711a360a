#include "distill/distill_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <numeric>
#include <span>

#include "core/json.h"
#include "distill/adapter_files.h"
#include "distill/distillation.h"
#include "distill/state_digest.h"
#include "distill/train_loop.h"
#include "distill/trained_files.h"
#include "records/step_log.h"

namespace overproof {

namespace {

/// The mean rewards of the steps in which verifiers judged what the student wrote.
std::vector<double> rewards_of(const std::string& lines) {
  std::vector<double> rewards;
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    const Json line = Json::parse(lines.substr(at, end - at));
    if (line.contains(kRewardName)) rewards.push_back(line[kRewardName]);
    at = end + 1;
  }
  return rewards;
}

double mean_of(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size()); }

}  // namespace

StageReport run_distill(const DistillConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  Distillation distillation = make_distillation(config, inputs);
  Training& training = distillation.training;
  const TrainOptions& options = config.training;
  Trainer& trainer = training.trainer();
  const ModelConfig& shape = training.student().config();
  const ComputeChoice compute = use_compute(options.compute, shape.hidden_size, outputs);

  StepRecord last;
  const StepLog log =
      train_all(training,
                {"distill", digest_interval(options.digest_every, training.step_tokens()), config.checkpoint_every,
                 options.keep_every, distillation.held_out.get(), config.evaluate_every, config.patience},
                outputs, last);
  const int64_t steps = trainer.steps_done(), tokens = steps * training.step_tokens();

  at::NoGradGuard no_grad;
  const DType dtype = written_dtype(options.dtype, open_checkpoint(inputs.path("student")));
  trainer.swap_average();
  write_adapters(training.student(), outputs.folder());
  const int64_t adapted = trainer.adapts() ? trainer.trained_parameters() : 0;
  trainer.swap_adapters();
  round_weights(training.student(), dtype);
  save_decoder(training.student(), outputs.folder(), dtype);
  write_companions(inputs.path("student"), options.repetition_penalty, outputs.folder());
  write_trained_counts(training, inputs.path("student"), /*kept=*/true, outputs.folder());

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  const Trainer::Loads loads = trainer.recent_loads();
  StageReport report;
  report.metrics() = {{"steps", steps},
                      {"batch_size", options.batch_size},
                      {"tokens", tokens},
                      {"taught_windows", distillation.taught_windows},
                      {"evidence", evidence_name(training.signal().evidence())},
                      {"trained_parameters", trainer.trained_parameters()},
                      {"final", step_log_line({.terms = training.terms()}, last)},
                      {"parameters", shape.parameters()},
                      {"active_fraction", active},
                      {"ffn_activation", shape.ffn_activation()},
                      {"expert_load", trainer.expert_load()},
                      {"recent_expert_load", {{"largest_mean", loads.largest_mean}, {"largest", loads.largest}, {"least", loads.least}}},
                      {kComputeMetric, compute.name()}};
  if (distillation.teacher_facts->size() > 1 || config.align != AlignTokens::none) report.metrics()["teachers"] = *distillation.teacher_facts;
  if (config.on_policy.share > 0) {
    int64_t written = 0;
    for (int64_t s = 0; s < steps; ++s) written += !training.follows(s);
    report.metrics()["on_policy_steps"] = written;
  }
  const std::vector<double> rewards = rewards_of(log.lines);
  write_step_log(log, outputs.folder(), report.metrics());
  record_dtype(report.metrics(), dtype);
  if (log.records && (dtype != DType::f32 || trainer.publishes_others()))
    report.metrics()[kPublishedWeights] = digest_of_weights(training.student()).hex();
  if (adapted > 0) report.metrics()["adapter_parameters"] = adapted;
  std::string terms;
  for (size_t t = 0; t < training.terms().size(); ++t)
    terms += fmt::format("{}{} {:.4f}", t > 0 ? ", " : "", training.terms()[t], last.terms[t]);
  report.summary = {fmt::format("{} steps, {} tokens: loss {:.4f} nats a token ({})", steps, tokens, last.loss, terms),
                    fmt::format("trained {:.1f} of {:.1f} million parameters", double(trainer.trained_parameters()) / 1e6,
                                double(shape.parameters()) / 1e6),
                    fmt::format("activation: {:.1f} % of the FFN neurons, {:.1f} % of all parameters",
                                100 * shape.ffn_activation(), 100 * active),
                    compute.summary()};
  if (config.training.learning_rate > 0 && config.training.warmup > steps)
    report.summary.push_back(fmt::format("note: {} steps end within the warmup of {}: the largest rate was {:.2g} of the {:.2g} that was asked for", steps,
                                         config.training.warmup, config.training.learning_rate * double(steps) / double(config.training.warmup),
                                         config.training.learning_rate));
  if (!rewards.empty()) {
    const size_t part = (rewards.size() + 3) / 4;
    const double first = mean_of(std::span(rewards).first(part)), at_last = mean_of(std::span(rewards).last(part));
    report.metrics()["reward"] = {{"first", first}, {"last", at_last}, {"steps", part}};
    report.summary.push_back(fmt::format("mean reward of the first {} steps of tasks {:.3f}, of the last {:.3f}", part, first, at_last));
  }
  if (shape.is_moe())
    report.summary.push_back(
        fmt::format("loads of experts over the mean, last steps: largest {:.2f} (mean over layers; of all {:.2f}), least {:.2f}",
                    loads.largest_mean, loads.largest, loads.least));
  if (shape.is_moe() && shape.expert_scores == ExpertScores::softmax && config.training.balance_rate > 0)
    report.summary.push_back(fmt::format("note: routers of {} have no selection bias, so balance-rate did nothing; --loss balance= evens loads", shape.model_type));
  if (const HeldOutTrack& t = log.held_out; t.count > 0)
    report.summary.push_back(fmt::format(
        "held-out {} {:.4f} nats a token at best, after step {}{}", distillation.measures_kl ? "KL" : "cross-entropy", t.best,
        t.best_step + 1, t.stops() ? fmt::format("; stopped early, {} of {} steps", steps, training.steps()) : ""));
  return report;
}

}  // namespace overproof
