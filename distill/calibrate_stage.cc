#include "distill/calibrate_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "data/corpus.h"
#include "data/order.h"
#include "distill/router_counts.h"
#include "distill/training_run.h"

namespace overproof {
namespace {

constexpr uint64_t kHeldOutTweak = 0x68656c646f757421;  // no epoch counts this far

struct HeldOut {
  double kl = 0;                     // nats a token
  std::vector<at::Tensor> selected;  // per layer and window, I32 [tokens, k]
  at::Tensor load;                   // F64 [layers, experts], fractions
};

HeldOut measure(const Decoder& student, const Decoder& teacher, const at::Tensor& windows) {
  at::NoGradGuard no_grad;
  HeldOut result;
  const ModelConfig& shape = student.config();
  result.load = at::zeros({shape.layers, shape.n_routed_experts}, at::kDouble);
  LossSums sums;
  for (int64_t w = 0; w < windows.size(0); ++w) {
    throw_if_interrupted();
    std::vector<RouterRecord> routing;
    ForwardOptions options;
    options.routing = &routing;
    options.record_selected = true;
    const at::Tensor window = windows.narrow(0, w, 1);
    const at::Tensor hidden = student.hidden(window, options);
    LossOptions value_only;
    value_only.gradient = false;
    sums += dense_loss(hidden, student.head(), teacher.hidden(window), teacher.head(), {}, value_only, nullptr, nullptr);
    for (size_t l = 0; l < routing.size(); ++l) {
      result.load[int64_t(l)].add_(routing[l].load);
      result.selected.push_back(routing[l].selected);
    }
  }
  result.load.div_(result.load.sum(1, true).clamp_min(1));
  result.kl = sums.kl / double(sums.tokens);
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

// What tuning may change, kept so that it can be undone.
std::vector<std::pair<at::Tensor, at::Tensor>> keep_tuned(const Decoder& student) {
  std::vector<std::pair<at::Tensor, at::Tensor>> kept;
  for (const NamedTensor& p : student.parameters())
    if (p.tensor.requires_grad() || trained_group(p.name).empty()) kept.emplace_back(p.tensor, p.tensor.detach().clone());
  return kept;
}

}  // namespace

int64_t top_k_for_activation(double target, int64_t experts, int64_t shared) {
  return std::clamp<int64_t>(std::llround(target * double(experts + shared)) - shared, 1, experts);
}

double routing_overlap(const at::Tensor& a, const at::Tensor& b) {
  OVERPROOF_CHECK(a.sizes() == b.sizes());
  const int64_t tokens = a.size(0), k = a.size(1);
  const int32_t *left = a.const_data_ptr<int32_t>(), *right = b.const_data_ptr<int32_t>();
  double sum = 0;
  std::vector<int32_t> both;
  for (int64_t t = 0; t < tokens; ++t, left += k, right += k) {
    both.clear();
    std::set_intersection(left, left + k, right, right + k, std::back_inserter(both));
    sum += double(both.size()) / double(2 * k - int64_t(both.size()));
  }
  return tokens > 0 ? sum / double(tokens) : 1.0;
}

StageReport run_calibrate(const CalibrateConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const TrainOptions& options = config.training;
  RouterCalibration training(config, inputs);
  Decoder& student = training.student();
  const Decoder& teacher = training.teacher();
  const Corpus& corpus = training.corpus();
  const ModelConfig& shape = student.config();
  const Permutation held_out_sample(training.order_key(), kHeldOutTweak, corpus.windows(Split::held_out));
  const at::Tensor held_out = sampled_windows(corpus, Split::held_out, held_out_sample, 0,
                                              std::min(config.held_out_windows, corpus.windows(Split::held_out)));
  const HeldOut before = measure(student, teacher, held_out);

  const Trainer& trainer = training.trainer();
  const auto kept = keep_tuned(student);
  StepRecord last;
  const StepLog log =
      train_all(training, {"calibrate", digest_interval(options.digest_every, training.step_tokens()), 0, options.keep_every},
                outputs, last);

  const HeldOut after = options.steps > 0 ? measure(student, teacher, held_out) : before;
  const bool keep = after.kl <= before.kl;  // false for NaN as well
  at::NoGradGuard no_grad;
  if (!keep)
    for (auto [tensor, value] : kept) tensor.copy_(value);
  save_decoder(student, outputs.folder(), save_dtype(options.dtype));
  copy_tokenizer(inputs.path("student"), outputs.folder());
  // What was counted in tuning that is undone shaped nothing.
  if (keep && options.steps > 0) write_router_counts(outputs.folder(), *training.routing(), inputs.path("student"));
  else if (has_router_counts(inputs.path("student")))
    write_router_counts(outputs.folder(), read_router_counts(inputs.path("student")));

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  const double overlap = mean_overlap(before, after);
  StageReport report;
  report.metrics() = {{"top_k", shape.top_k},
                      {"given_top_k", training.given_top_k()},
                      {"ffn_activation", shape.ffn_activation()},
                      {"active_fraction", active},
                      {"steps", options.steps},
                      {"tokens", options.steps * options.batch_size * corpus.window_length()},
                      {"tuned_parameters", trainer.trained_parameters()},
                      {"held_out_tokens", held_out.numel()},
                      {"kl_before", before.kl},
                      {"kl_after", after.kl},
                      {"tuning_kept", keep},
                      {"routing_overlap", overlap},
                      {"expert_load", load_rows(keep ? after.load : before.load)}};
  write_step_log(log, outputs.folder(), report.metrics());
  report.summary = {
      fmt::format("top-k {} (was {}): {:.1f} % of the FFN neurons, {:.1f} % of all parameters active", shape.top_k,
                  training.given_top_k(), 100 * shape.ffn_activation(), 100 * active),
      fmt::format("held-out KL to the teacher {:.4f} before tuning, {:.4f} after ({} tokens)", before.kl, after.kl,
                  held_out.numel()),
      fmt::format("routing overlap before and after (Jaccard) {:.3f}; largest expert load {:.2f} of the mean", overlap,
                  ((keep ? after : before).load.amax({1}).mean() * double(shape.n_routed_experts)).item<double>())};
  if (!keep) report.summary.emplace_back("tuning made the held-out KL worse, so the untuned router was kept");
  return report;
}

}  // namespace overproof
