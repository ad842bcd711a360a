#include "distill/calibrate_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/order.h"
#include "distill/router_counts.h"
#include "distill/trainer.h"
#include "student/ffn.h"

namespace overproof {
namespace {

constexpr uint64_t kTrainTweak = 0x63616c6962726174, kHeldOutTweak = 0x68656c646f757421;  // no epoch counts this far

// `count` windows of a split from place `first` of a keyed permutation on, going round when they run out.
// `sources`, when not null, are asked for the source of each of their tokens.
at::Tensor sampled_windows(const Corpus& corpus, Split split, const Permutation& sample, int64_t first, int64_t count,
                           const TokenSources* sources = nullptr, std::vector<int32_t>* token_sources = nullptr) {
  const int64_t length = corpus.window_length();
  const at::Tensor windows = at::empty({count, length}, at::kLong);
  std::vector<int64_t> ids(size_t(length) + 1);
  if (sources) token_sources->resize(size_t(count * length));
  for (int64_t w = 0; w < count; ++w) {
    const int64_t window = sample.forward((first + w) % corpus.windows(split));
    corpus.read_window(split, window, ids);
    if (sources) sources->read_window(split, window, std::span(*token_sources).subspan(size_t(w * length), size_t(length)));
    std::copy_n(ids.begin(), length, windows.data_ptr<int64_t>() + w * length);
  }
  return windows;
}

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
  const Corpus corpus(inputs.path("corpus"));
  require_tokenizer(inputs.path("student"), corpus.tokenizer_probe(), "the corpus");
  require_tokenizer(inputs.path("teacher"), corpus.tokenizer_probe(), "the corpus");
  Decoder student(open_checkpoint(inputs.path("student")));
  const Decoder teacher(open_checkpoint(inputs.path("teacher")));
  if (!student.config().is_moe()) throw UsageError("the student has no routed experts, so there is no router to calibrate");
  if (student.config().vocab_size != teacher.config().vocab_size)
    throw UsageError(fmt::format("the teacher has {} ids, the student {}", teacher.config().vocab_size, student.config().vocab_size));
  if (corpus.windows(Split::held_out) < 1) throw UsageError("the corpus has no held-out window to judge the calibration on");
  if (corpus.windows(Split::train) < 1) throw UsageError("the corpus has no training window to calibrate with");

  ModelConfig& shape = student.config();
  const int64_t given_top_k = shape.top_k;
  shape.top_k = top_k_for_activation(config.target_activation, shape.n_routed_experts, shape.n_shared_experts);

  const Digest key = order_key(inputs.root("corpus"), config.seed);
  const Permutation train_sample(key, kTrainTweak, corpus.windows(Split::train));
  const Permutation held_out_sample(key, kHeldOutTweak, corpus.windows(Split::held_out));
  const at::Tensor held_out = sampled_windows(corpus, Split::held_out, held_out_sample, 0,
                                              std::min(config.held_out_windows, corpus.windows(Split::held_out)));
  const HeldOut before = measure(student, teacher, held_out);

  TrainOptions options;
  options.train = config.train;
  options.steps = config.steps;
  options.learning_rate = config.learning_rate;
  options.router_lr_scale = config.router_lr_scale;
  options.balance_rate = config.balance_rate;
  options.clip = config.clip;
  Trainer trainer(student, options);
  const TokenSources sources(corpus);
  RouterCounter counter(sources.names(), shape.layers, shape.n_routed_experts);
  trainer.count_routing(counter);
  const auto kept = keep_tuned(student);
  std::string log;
  {
    const int64_t step_tokens = config.batch_size * corpus.window_length();
    Progress progress("calibrate", config.steps * step_tokens, "tokens");
    for (int64_t step = 0; step < config.steps; ++step) {
      throw_if_interrupted();
      std::vector<int32_t> token_sources;
      const at::Tensor windows = sampled_windows(corpus, Split::train, train_sample, step * config.batch_size, config.batch_size, &sources,
                                                 &token_sources);
      const StepRecord record = trainer.step(
          windows, config.micro_batch, 0.0,
          [&](int64_t first, int64_t count, const at::Tensor& hidden, double grad_scale, at::Tensor* d_hidden, at::Tensor* d_head) {
            at::NoGradGuard no_grad;
            LossOptions scaled;
            scaled.grad_scale = grad_scale;
            const at::Tensor theirs = teacher.hidden(windows.narrow(0, first, count));
            return dense_loss(hidden, student.head(), theirs, teacher.head(), {}, scaled, d_hidden, d_head);
          },
          token_sources);
      log += record.to_json().dump() + "\n";
      progress.update((step + 1) * step_tokens, fmt::format("loss {:.3f}, balance {:.2f}", record.loss, record.balance));
    }
  }

  const HeldOut after = config.steps > 0 ? measure(student, teacher, held_out) : before;
  const bool keep = after.kl <= before.kl;  // false for NaN as well
  at::NoGradGuard no_grad;
  if (!keep)
    for (auto [tensor, value] : kept) tensor.copy_(value);
  save_decoder(student, outputs.folder(), save_dtype(config.dtype));
  copy_tokenizer(inputs.path("student"), outputs.folder());
  outputs.folder().write_file("steps.jsonl", log);
  // What was counted in tuning that is undone shaped nothing.
  if (keep && config.steps > 0) write_router_counts(outputs.folder(), counter, inputs.path("student"));
  else if (has_router_counts(inputs.path("student"))) write_router_counts(outputs.folder(), read_router_counts(inputs.path("student")));

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  const double overlap = mean_overlap(before, after);
  StageReport report;
  report.metrics() = {{"top_k", shape.top_k},
                      {"given_top_k", given_top_k},
                      {"ffn_activation", shape.ffn_activation()},
                      {"active_fraction", active},
                      {"steps", config.steps},
                      {"tokens", config.steps * config.batch_size * corpus.window_length()},
                      {"tuned_parameters", trainer.trained_parameters()},
                      {"held_out_tokens", held_out.numel()},
                      {"kl_before", before.kl},
                      {"kl_after", after.kl},
                      {"tuning_kept", keep},
                      {"routing_overlap", overlap},
                      {"expert_load", load_rows(keep ? after.load : before.load)}};
  report.summary = {
      fmt::format("top-k {} (was {}): {:.1f} % of the FFN neurons, {:.1f} % of all parameters active", shape.top_k, given_top_k,
                  100 * shape.ffn_activation(), 100 * active),
      fmt::format("held-out KL to the teacher {:.4f} before tuning, {:.4f} after ({} tokens)", before.kl, after.kl, held_out.numel()),
      fmt::format("routing overlap before and after (Jaccard) {:.3f}; largest expert load {:.2f} of the mean", overlap,
                  ((keep ? after : before).load.amax({1}).mean() * double(shape.n_routed_experts)).item<double>())};
  if (!keep) report.summary.push_back("tuning made the held-out KL worse, so the untuned router was kept");
  return report;
}

}  // namespace overproof
