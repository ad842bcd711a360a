#include "distill/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "core/config.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"

namespace overproof {
namespace {

const std::vector<std::string> kGroups = {"experts", "router", "norms", "attention", "embeddings", "head"};

std::set<std::string> chosen_groups(const std::string& list) {
  std::set<std::string> chosen;
  for (const std::string& word : split_list(list)) {
    if (word == "all") {
      chosen.insert(kGroups.begin(), kGroups.end());
    } else if (std::ranges::find(kGroups, word) != kGroups.end()) {
      chosen.insert(word);
    } else {
      const std::string near = nearest(word, kGroups);
      throw UsageError(
          fmt::format("train: unknown group '{}'{}; known are all, experts, router, norms, attention, embeddings, head", word,
                      near.empty() ? "" : fmt::format("; did you mean '{}'?", near)));
    }
  }
  return chosen;
}

// Sum of squares in f64 over pieces of fixed size, added in order: the same for any number of threads.
double square_sum(const at::Tensor& tensor) {
  constexpr int64_t kPiece = 1 << 16;
  const int64_t n = tensor.numel();
  const float* values = tensor.const_data_ptr<float>();
  std::vector<double> sums(static_cast<size_t>((n + kPiece - 1) / kPiece));
  parallel_for(n, kPiece, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += double(values[i]) * double(values[i]);
    sums[size_t(begin / kPiece)] = sum;
  });
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

}  // namespace

std::string trained_group(const std::string& parameter) {
  const auto has = [&](std::string_view part) { return parameter.find(part) != std::string::npos; };
  if (has("router_bias")) return "";
  if (has("router")) return "router";
  if (has("norm")) return "norms";
  if (has(".attention.")) return "attention";
  if (has(".experts.") || has(".ffn.")) return "experts";
  if (parameter == "embedding") return "embeddings";
  if (parameter == "head") return "head";
  throw std::logic_error("no training group for " + parameter);
}

double learning_rate_at(const TrainOptions& options, int64_t step) {
  if (step < options.warmup) return options.learning_rate * double(step + 1) / double(options.warmup);
  if (options.schedule == "constant") return options.learning_rate;
  const double done = double(step - options.warmup) / double(std::max<int64_t>(1, options.steps - options.warmup));
  const double left = std::max(0.0, 1 - done);
  return options.learning_rate * (options.schedule == "linear" ? left : 0.5 * (1 - std::cos(std::numbers::pi * left)));
}

Trainer::Trainer(Decoder& model, const TrainOptions& options) : model_(model), options_(options) {
  const std::set<std::string> chosen = chosen_groups(options.train);
  for (const NamedTensor& p : model.parameters()) {
    const std::string group = trained_group(p.name);
    at::Tensor weight = p.tensor;
    weight.set_requires_grad(chosen.contains(group));
    if (!weight.requires_grad()) continue;
    OVERPROOF_CHECK(weight.is_contiguous());
    slots_.push_back({p.name, weight, at::zeros_like(weight), at::zeros_like(weight), group != "router" && weight.dim() > 1,
                      group == "router"});
    // zeros_like keeps no history, but inherits nothing else either: moments are plain tensors
  }
  if (slots_.empty())
    throw UsageError(fmt::format("train = {}: this model has no such weights, so nothing would be trained", options.train));
  const ModelConfig& shape = model.config();
  if (shape.is_moe()) expert_tokens_ = at::zeros({shape.layers, shape.n_routed_experts}, at::kLong);
}

int64_t Trainer::trained_parameters() const {
  int64_t sum = 0;
  for (const Slot& slot : slots_) sum += slot.weight.numel();
  return sum;
}

StepRecord Trainer::step(const at::Tensor& windows, double ce_weight, size_t term_count, const Loss& loss,
                         std::span<const int32_t> token_sources) {
  const int64_t batch = windows.size(0), tokens = windows.numel();
  OVERPROOF_CHECK(!counter_ || int64_t(token_sources.size()) == tokens);
  for (Slot& slot : slots_) slot.weight.mutable_grad().reset();

  LossSums sums;
  std::vector<at::Tensor> loads(size_t(model_.config().layers));
  for (int64_t first = 0; first < batch; first += options_.micro_batch) {
    const int64_t count = std::min(options_.micro_batch, batch - first);
    std::vector<RouterRecord> routing;
    ForwardOptions options;
    options.routing = &routing;
    options.record_selected = counter_ != nullptr;
    const at::Tensor hidden = model_.hidden(windows.narrow(0, first, count), options);
    at::Tensor d_hidden, d_head;
    at::Tensor head = model_.head();
    if (head.requires_grad()) d_head = head.grad().defined() ? head.mutable_grad() : at::zeros_like(head);
    sums += loss(first, count, hidden.detach(), 1.0 / double(tokens), &d_hidden, d_head.defined() ? &d_head : nullptr);
    if (d_head.defined()) head.mutable_grad() = d_head;  // before backward(), which adds to it when the embedding is tied
    if (hidden.requires_grad()) hidden.backward(d_hidden);
    if (counter_) counter_->add(routing, token_sources.subspan(size_t(first * windows.size(1)), size_t(count * windows.size(1))));
    for (size_t l = 0; l < routing.size(); ++l) loads[l] = loads[l].defined() ? loads[l] + routing[l].load : routing[l].load;
  }

  at::NoGradGuard no_grad;
  StepRecord record;
  record.step = steps_done_;
  record.sequences = batch;
  record.tokens = tokens;
  record.weight = double(tokens);
  record.terms[0] = sums.kl / double(tokens);
  if (term_count > 1) record.terms[1] = sums.ce / double(tokens);
  record.loss = sums.loss(ce_weight) / double(tokens);
  record.learning_rate = learning_rate_at(options_, steps_done_);
  record.grad_norm = clip_gradients();
  if (!std::isfinite(record.loss) || !std::isfinite(record.grad_norm))
    throw UsageError(fmt::format("training diverged at step {}: loss {}, gradient norm {}; a smaller learning-rate may help",
                                 record.step, record.loss, record.grad_norm));
  ++steps_done_;
  update_weights(record.learning_rate);
  if (model_.config().is_moe()) record.balance = balance_experts(loads);
  return record;
}

double Trainer::clip_gradients() const {
  double sum = 0;
  for (const Slot& slot : slots_)
    if (slot.weight.grad().defined()) sum += square_sum(slot.weight.grad().contiguous());
  const double norm = std::sqrt(sum);
  if (options_.clip > 0 && norm > options_.clip)
    for (const Slot& slot : slots_)
      if (slot.weight.grad().defined()) slot.weight.grad().mul_(options_.clip / norm);
  return norm;
}

void Trainer::update_weights(double rate) {
  const at::Tensor step = at::full({}, double(steps_done_), at::kFloat);
  for (const Slot& slot : slots_) {
    if (!slot.weight.grad().defined()) continue;  // not reached by this batch
    const double slot_rate = slot.router ? rate * options_.router_lr_scale : rate;
    at::_fused_adamw_({slot.weight}, {slot.weight.grad()}, {slot.first}, {slot.second}, {}, {step}, slot_rate, options_.beta1,
                      options_.beta2, slot.decayed ? options_.weight_decay : 0.0, options_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

// Balancing without an auxiliary loss (Wang et al. 2024, arXiv 2408.15664): bias += rate x sign(mean load - load). Only
// differences of biases matter, so their mean is taken out again.
double Trainer::balance_experts(const std::vector<at::Tensor>& loads) {
  double spread = 0;
  for (size_t l = 0; l < loads.size(); ++l) {
    expert_tokens_[int64_t(l)].add_(loads[l]);
    const at::Tensor load = loads[l].to(at::kFloat), mean = load.mean();
    spread += (load.max() / mean).item<double>();
    if (options_.balance_rate <= 0) continue;
    at::Tensor bias = model_.layers()[l].router_bias;
    bias.add_((mean - load).sign(), options_.balance_rate);
    bias.sub_(bias.mean());
  }
  return spread / double(loads.size());
}

Json Trainer::expert_load() const {
  Json layers = Json::array();
  if (!expert_tokens_.defined()) return layers;
  for (int64_t l = 0; l < expert_tokens_.size(0); ++l) {
    const at::Tensor tokens = expert_tokens_[l];
    const double sum = std::max<double>(1.0, double(tokens.sum().item<int64_t>()));
    Json fractions = Json::array();
    for (int64_t e = 0; e < tokens.size(0); ++e) fractions.push_back(double(tokens[e].item<int64_t>()) / sum);
    layers.push_back(std::move(fractions));
  }
  return layers;
}

std::vector<NamedTensor> Trainer::state() const {
  std::vector<NamedTensor> all;
  for (const Slot& slot : slots_) {
    all.push_back({slot.name, slot.weight.detach()});
    all.push_back({slot.name + ".adam_first", slot.first});
    all.push_back({slot.name + ".adam_second", slot.second});
  }
  for (size_t l = 0; l < model_.layers().size(); ++l)
    if (model_.layers()[l].router_bias.defined())
      all.push_back({fmt::format("layers.{}.router_bias", l), model_.layers()[l].router_bias.detach()});
  if (expert_tokens_.defined()) all.push_back({"expert_tokens", expert_tokens_});
  if (counter_)
    for (NamedTensor& t : counter_->state()) all.push_back(std::move(t));
  return all;
}

std::vector<NamedTensor> Trainer::optimizer_state() const {
  std::vector<NamedTensor> all;
  for (const Slot& slot : slots_) {
    all.push_back({slot.name + ".adam_first", slot.first});
    all.push_back({slot.name + ".adam_second", slot.second});
  }
  if (expert_tokens_.defined()) all.push_back({"expert_tokens", expert_tokens_});
  if (counter_)
    for (NamedTensor& t : counter_->state()) all.push_back(std::move(t));
  return all;
}

}  // namespace overproof
