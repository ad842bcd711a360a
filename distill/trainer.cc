#include "distill/trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "distill/gradients.h"
#include "formats/never_chosen.h"
#include "teacher/signal.h"

namespace overproof {
namespace {

// Which words of the option `train` cover a group. `experts` covers every FFN weight of a model as `ffn` does: those of a mixture
// are the routed and shared experts, and of a dense model it is the older name.
bool is_chosen(const StringList& train, const std::string& group) {
  return std::ranges::any_of(train, [&](const std::string& word) {
    return !group.empty() && (word == "all" || word == group || (word == "experts" && group == "ffn"));
  });
}

}  // namespace

std::string trained_group(const std::string& parameter) {
  const auto has = [&](std::string_view part) { return parameter.find(part) != std::string::npos; };
  if (has("router_bias")) return "";
  if (has("router")) return "router";
  if (has("norm")) return "norms";
  if (has(".attention.")) return "attention";
  if (has(".experts.") || has(".ffn.")) return "ffn";
  if (parameter == "embedding") return "embeddings";
  if (parameter == "head") return "head";
  throw std::logic_error("no training group for " + parameter);
}

double learning_rate_at(const TrainOptions& options, int64_t step) {
  if (step < options.warmup) return options.learning_rate * double(step + 1) / double(options.warmup);
  if (options.schedule == Schedule::constant) return options.learning_rate;
  int64_t begin = options.warmup;  // of the way to zero
  if (options.schedule == Schedule::wsd)
    begin = std::max(begin, options.steps - int64_t(std::llround(options.decay_share * double(options.steps))));
  if (step < begin) return options.learning_rate;
  const double done = double(step - begin) / double(std::max<int64_t>(1, options.steps - begin));
  const double left = std::max(0.0, 1 - done);
  return options.learning_rate * (options.schedule == Schedule::cosine ? 0.5 * (1 - std::cos(std::numbers::pi * left)) : left);
}

Trainer::Trainer(Decoder& model, const TrainOptions& options, std::shared_ptr<const Group> group)
    : model_(model), options_(options), group_(std::move(group)) {
  const std::vector<AdapterPlace> adapters = adapter_places(model);
  for (const AdapterPlace& place : adapters)
    for (const auto& [name, tensor] : {std::pair{".lora_A", place.adapter.a}, {".lora_B", place.adapter.b}}) {
      at::Tensor trained = tensor;
      trained.set_requires_grad(true);
      trained_.push_back({place.module + name, trained, at::zeros_like(trained), at::zeros_like(trained),
                          options.ema > 0 ? trained.detach().clone() : at::Tensor(), true, false, /*of_model=*/false});
    }
  for (const NamedTensor& p : model.parameters()) {
    const std::string group_of_weights = trained_group(p.name);
    at::Tensor weight = p.tensor;
    weight.set_requires_grad(adapters.empty() && is_chosen(options.train, group_of_weights));
    if (!weight.requires_grad()) continue;
    OVERPROOF_CHECK(weight.is_contiguous());
    const bool router = group_of_weights == "router";
    trained_.push_back({p.name, weight, at::zeros_like(weight), at::zeros_like(weight),
                        options.ema > 0 ? weight.detach().clone() : at::Tensor(), !router && weight.dim() > 1, router});
  }
  if (trained_.empty())
    throw UsageError(
        fmt::format("option 'train': this model has no weights of {}, so nothing would be trained", fmt::join(options.train, ",")));
  if (options.batch_size < group_->size())
    throw UsageError(fmt::format("option 'batch-size': {} sequences are fewer than the {} processes", options.batch_size,
                                 group_->size()));
  const ModelConfig& shape = model.config();
  if (!shape.is_moe()) return;
  expert_tokens_ = at::zeros({shape.layers, shape.n_routed_experts}, at::kLong);
  recent_loads_ = at::zeros({shape.layers, shape.n_routed_experts});
}

int64_t Trainer::trained_parameters() const {
  int64_t sum = 0;
  for (const Trained& t : trained_) sum += t.published ? t.weight.numel() : 0;
  return sum;
}

void Trainer::add_trained(const std::string& name, at::Tensor tensor) {
  tensor.set_requires_grad(true);
  trained_.push_back({name, tensor, at::zeros_like(tensor), at::zeros_like(tensor), {}, false, false, /*of_model=*/false, /*published=*/false});
}

LossSums Trainer::accumulate_gradients(const TokenBatch& batch, const LossFunction& loss, std::vector<at::Tensor>& loads) {
  OVERPROOF_CHECK(!counter_ || int64_t(batch.source.size()) == batch.tokens());
  for (Trained& t : trained_) t.weight.mutable_grad().reset();

  LossSums sums;
  const double weight = batch.total_weight(), scale = weight > 0 ? 1.0 / weight : 0.0;  // 0: every label is masked
  loads.assign(size_t(model_.config().layers), {});
  const int64_t end = batch.batch * (group_->rank() + 1) / group_->size();
  for (int64_t first = batch.batch * group_->rank() / group_->size(); first < end; first += options_.micro_batch) {
    const int64_t count = std::min(options_.micro_batch, end - first);
    const bool written = !batch.advantage.empty();  // the teacher runs alongside, so its rows are those of what it is given
    const TokenBatch part = written ? batch.used_part(first, count) : TokenBatch{};
    Pass pass{.batch = written ? part : batch, .first = written ? 0 : first, .count = count, .grad_scale = scale};
    std::vector<RouterRecord>& routing = pass.routing;
    ForwardOptions options;
    options.routing = &routing;
    options.record_selected = counter_ != nullptr || record_scores_;
    options.record_scores = record_scores_;
    options.segments = input_segments(pass.batch, pass.first, count);
    if (record_layers_) options.layers = &pass.layers;
    const at::Tensor hidden = model_.hidden(input_ids(pass.batch, pass.first, count), options);
    at::Tensor d_hidden, d_head, inner_loss;
    at::Tensor head = model_.head();
    if (head.requires_grad()) d_head = head.grad().defined() ? head.mutable_grad() : at::zeros_like(head);
    pass.hidden = hidden.detach();
    pass.d_hidden = &d_hidden;
    if (d_head.defined()) pass.d_head = &d_head;
    pass.inner_loss = &inner_loss;
    sums += loss(pass);
    if (d_head.defined()) head.mutable_grad() = d_head;  // before backward(), which adds to it when the embedding is tied
    std::vector<at::Tensor> roots, root_gradients;
    if (hidden.requires_grad()) roots.push_back(hidden), root_gradients.push_back(d_hidden);
    if (inner_loss.defined() && inner_loss.requires_grad())
      roots.push_back(inner_loss), root_gradients.push_back(at::full_like(inner_loss, scale));
    if (!roots.empty()) torch::autograd::backward(roots, root_gradients);
    if (counter_) {
      const int64_t length = pass.batch.length;
      counter_->add(routing, std::span(pass.batch.source).subspan(size_t(pass.first * length), size_t(count * length)));
    }
    for (size_t l = 0; l < routing.size(); ++l) loads[l] = loads[l].defined() ? loads[l] + routing[l].load : routing[l].load;
  }
  if (group_->size() > 1) add_up_ranks(sums, loads);
  if (counter_) counter_->finish_step();
  return sums;
}

void Trainer::add_up_ranks(LossSums& sums, std::vector<at::Tensor>& loads) {
  at::NoGradGuard no_grad;
  group_->all_reduce(sums.values);
  group_->all_reduce(std::span(&sums.weight, 1));
  for (Trained& t : trained_) {
    at::Tensor sum = t.weight.grad().defined() ? t.weight.grad().contiguous() : at::zeros_like(t.weight);
    all_reduce(*group_, sum);
    t.weight.mutable_grad() = sum;
  }
  if (!model_.config().is_moe()) return;
  for (at::Tensor& load : loads) {
    load = load.contiguous().clone();
    all_reduce(*group_, load);
  }
}

StepRecord Trainer::step(const TokenBatch& batch, const LossTerms& terms, const LossFunction& loss) {
  std::vector<at::Tensor> loads;
  const LossSums sums = accumulate_gradients(batch, loss, loads);

  at::NoGradGuard no_grad;
  StepRecord record;
  record.step = steps_done_;
  record.sequences = batch.batch;
  record.tokens = batch.tokens();
  record.weight = sums.weight;
  record.loss = sums.weight > 0 ? sums.total(terms) / sums.weight : 0.0;
  OVERPROOF_CHECK(terms.size() <= kMostLossTerms);
  for (size_t t = 0; t < terms.size(); ++t) record.terms[t] = sums.weight > 0 ? sums.values[t] / sums.weight : 0.0;
  record.learning_rate = learning_rate_at(options_, steps_done_);
  record.grad_norm = gradient_norm();
  if (!std::isfinite(record.loss) || !std::isfinite(record.grad_norm))
    throw DivergenceError(fmt::format("training diverged at step {}: loss {}, gradient norm {}; try a smaller learning-rate",
                                      record.step, record.loss, record.grad_norm));
  ++steps_done_;
  const bool clipped = options_.clip > 0 && record.grad_norm > options_.clip;
  update_weights(record.learning_rate, clipped ? options_.clip / record.grad_norm : 1.0);
  if (model_.config().is_moe()) record.balance = balance_experts(loads);
  return record;
}

double Trainer::gradient_norm() const {
  double sum = 0;
  for (const Trained& t : trained_)
    if (t.weight.grad().defined()) sum += square_sum(t.weight.grad().contiguous());
  return std::sqrt(sum);
}

void Trainer::update_weights(double rate, double gradient_scale) {
  for (const Trained& t : trained_) {
    if (!t.weight.grad().defined()) continue;  // not reached by this batch
    adamw({t.weight, t.weight.grad(), t.first, t.second},
          {.step = steps_done_,
           .rate = t.router ? rate * options_.router_lr_scale : rate,
           .beta1 = options_.beta1,
           .beta2 = options_.beta2,
           .decay = t.decayed ? options_.weight_decay : 0.0,
           .epsilon = options_.epsilon,
           .gradient_scale = gradient_scale});
  }
  if (!averages()) return;
  // The first steps count more, so that the average of a short training is not that of its beginning (as tf.train.ExponentialMovingAverage
  // with num_updates has it).
  const double decay = std::min(options_.ema, double(1 + steps_done_) / double(10 + steps_done_));
  for (const Trained& t : trained_)
    if (t.published) t.average.lerp_(t.weight, 1 - decay);
}

void Trainer::swap_average() {
  at::NoGradGuard no_grad;
  if (!averages()) return;
  for (const Trained& t : trained_) {
    if (!t.published) continue;
    const at::Tensor weight = t.weight.detach().clone();
    t.weight.copy_(t.average);
    t.average.copy_(weight);
  }
}

void Trainer::swap_adapters() {
  if (!adapts()) return;
  if (merged_weights_.empty()) {
    for (const AdapterPlace& place : adapter_places(model_)) {
      merged_weights_.push_back(place.weight.clone());
      merge_adapter(place);
    }
    for (const LayerWeights& w : model_.layers()) taken_off_.push_back(w.adapters);
    model_.set_adapters({});
    return;
  }
  model_.set_adapters(std::exchange(taken_off_, {}));
  const std::vector<AdapterPlace> places = adapter_places(model_);
  for (size_t i = 0; i < places.size(); ++i) at::Tensor(places[i].weight).copy_(merged_weights_[i]);
  merged_weights_.clear();
}

namespace {

constexpr double kRecentSteps = 8;
constexpr double kAlmostDead = 0.1, kRevival = 8;

/// 1 where a router's bias belongs to an expert, 0 at places without one; all are live where there is no bias. f32 [experts].
at::Tensor live_places(const at::Tensor& bias, int64_t experts) {
  return bias.defined() ? bias.gt(kNeverChosen / 2).to(at::kFloat) : at::ones({experts});
}

/// Loads over their mean over the live places; zeros when there is no load.
at::Tensor load_shares(const at::Tensor& load, const at::Tensor& live) {
  const at::Tensor f32 = load.to(at::kFloat).mul(live);
  return f32 * (live.sum() / f32.sum().clamp_min(1e-20));
}

}  // namespace

// Balancing without an auxiliary loss (Wang et al. 2024, arXiv 2408.15664): bias += rate x sign(mean load - load). Only
// differences of biases matter, so their mean is taken out again. Places without an expert stay out of both means, and as they are: a
// mean that holds their bias would leave no digits to the others.
void balance_bias(const at::Tensor& bias, const at::Tensor& load, double rate) {
  const at::Tensor live = live_places(bias, bias.size(0)), count = live.sum();
  if (count.item<double>() < 1) return;
  const at::Tensor share = load_shares(load, live);
  const at::Tensor step = (1 - share).sign() * (1 + (kRevival - 1) * share.lt(kAlmostDead).to(at::kFloat));
  bias.add_(step.mul(live), rate);
  bias.sub_(live.mul(bias.mul(live).sum() / count));
}

// The loads of a step of few tokens are uneven at random, and so what a bias follows is a mean over some steps.
double Trainer::balance_experts(const std::vector<at::Tensor>& loads) {
  double spread = 0;
  for (size_t l = 0; l < loads.size(); ++l) {
    expert_tokens_[int64_t(l)].add_(loads[l]);
    const at::Tensor bias = model_.layers()[l].router_bias, recent = recent_loads_[int64_t(l)];
    const at::Tensor share = load_shares(loads[l], live_places(bias, loads[l].size(0)));
    recent.lerp_(share, steps_done_ == 1 ? 1.0 : 1 / kRecentSteps);
    spread += recent.max().item<double>();
    if (options_.balance_rate > 0 && bias.defined()) balance_bias(bias, recent, options_.balance_rate);
  }
  return spread / double(loads.size());
}

Trainer::Loads Trainer::recent_loads() const {
  if (!recent_loads_.defined() || steps_done_ == 0) return {};
  Loads loads{recent_loads_.amax(1).mean().item<double>(), recent_loads_.max().item<double>(), std::numeric_limits<double>::infinity()};
  for (int64_t l = 0; l < recent_loads_.size(0); ++l) {
    const at::Tensor live = recent_loads_[l].masked_select(live_places(model_.layers()[size_t(l)].router_bias, recent_loads_.size(1)).gt(0));
    if (live.numel() > 0) loads.least = std::min(loads.least, live.min().item<double>());
  }
  return loads;
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
  for (const Trained& t : trained_)
    if (t.of_model) all.push_back({t.name, t.weight.detach()});
  for (size_t l = 0; l < model_.layers().size(); ++l)
    if (model_.layers()[l].router_bias.defined())
      all.push_back({fmt::format("layers.{}.router_bias", l), model_.layers()[l].router_bias.detach()});
  for (NamedTensor& t : optimizer_state()) all.push_back(std::move(t));
  return all;
}

std::vector<NamedTensor> Trainer::optimizer_state() const {
  std::vector<NamedTensor> all;
  for (const Trained& t : trained_) {
    if (!t.of_model) all.push_back({t.name, t.weight.detach()});
    all.push_back({t.name + ".adam_first", t.first});
    all.push_back({t.name + ".adam_second", t.second});
    if (t.average.defined()) all.push_back({t.name + ".average", t.average});
  }
  if (expert_tokens_.defined()) all.insert(all.end(), {{"expert_tokens", expert_tokens_}, {"recent_loads", recent_loads_}});
  if (counter_)
    for (NamedTensor& t : counter_->state()) all.push_back(std::move(t));
  return all;
}

}  // namespace overproof
