#include "model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/json.h"
#include "model/activation_rounding.h"
#include "model/adapters.h"
#include "model/decoder_parts.h"
#include "model/ops/attention.h"
#include "model/ops/head_loss.h"
#include "model/ops/linear.h"
#include "model/ops/products.h"
#include "model/ops/rms_norm.h"
#include "model/ops/swiglu.h"

namespace overproof {
namespace {

using at::Tensor;

/// [batch x length, heads, dim] -> [batch, heads, length, dim], a view.
Tensor by_head(const Tensor& x, int64_t batch, int64_t length) {
  return x.view({batch, length, x.size(1), x.size(2)}).transpose(1, 2);
}

/// The place of each token in its segment. segments I32 [batch, length] -> I64 [batch, length].
Tensor positions_in(const Tensor& segments) {
  const int64_t length = segments.size(1);
  const Tensor place = at::arange(length, at::kLong);
  Tensor begins = at::ones(segments.sizes(), at::kBool);
  begins.narrow(1, 1, length - 1).copy_(segments.narrow(1, 1, length - 1).ne(segments.narrow(1, 0, length - 1)));
  const Tensor begin = std::get<0>(at::cummax(at::where(begins, place, at::zeros_like(place)), 1));
  return place - begin;
}

/// Bool [batch, 1, length, length]: the tokens of the same segment up to each.
Tensor visible_in(const Tensor& segments) {
  const Tensor same = segments.unsqueeze(1).unsqueeze(3).eq(segments.unsqueeze(1).unsqueeze(2));
  return same.logical_and(at::ones({segments.size(1), segments.size(1)}, at::kBool).tril());
}

const LayerAdapters& adapters_of(const LayerWeights& w) {
  static const LayerAdapters kNone;
  return w.adapters ? *w.adapters : kNone;
}

bool has_ffn(const LayerAdapters& a) { return a.gate.a.defined() || a.up.a.defined() || a.down.a.defined(); }

/// As ops::feed_forward, with biases and adapters.
Tensor adapted_feed_forward(const Tensor& h, const LayerWeights& w, const Tensor& residual) {
  const LayerAdapters& a = adapters_of(w);
  const Tensor z = ops::linear(h, w.gate_up, w.gate_up_bias);
  const int64_t width = w.down.size(1);
  const Tensor activation = at::silu(adapted(z.narrow(1, 0, width), h, a.gate)) * adapted(z.narrow(1, width, width), h, a.up);
  return adapted(ops::linear(activation, w.down, w.down_bias, residual), activation, a.down);
}

/// Rounding has no gradient: training would run and learn nothing.
void require_trainable(const std::vector<LayerWeights>& layers) {
  if (!at::GradMode::is_enabled()) return;
  for (const LayerWeights& w : layers)
    if (w.rounding && (w.q.requires_grad() || (w.router.defined() && w.router.requires_grad())))
      throw MismatchError(
          "this checkpoint rounds its activations to 8 bits (quantization_config): it can be run, not trained; train its parent");
}

}  // namespace

Tensor inverse_frequencies(const ModelConfig& c, const Placement& placement) {
  const auto type = placement.options().dtype(wide_type(placement.dtype));
  const Tensor exponents = at::arange(0, c.head_dim, 2, at::kFloat) / double(c.head_dim);
  Tensor f = at::pow(at::Scalar(c.rope_theta), exponents).reciprocal();
  if (!c.has_rope_scaling) return f.to(type);
  const RopeScaling& s = c.rope_scaling;
  const double long_wave = double(s.original_max_position) / s.low_freq_factor;
  const double short_wave = double(s.original_max_position) / s.high_freq_factor;
  const Tensor wavelength = 2.0 * std::numbers::pi / f;
  const Tensor blend =
      (double(s.original_max_position) / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  const Tensor between = (1.0 - blend) * f / s.factor + blend * f;
  return at::where(wavelength > long_wave, f / s.factor, at::where(wavelength < short_wave, f, between)).to(type);
}

void check_tokens(const Tensor& tokens, const ModelConfig& config) {
  OVERPROOF_CHECK(tokens.scalar_type() == at::kLong && tokens.numel() > 0);
  const auto [low, high] = at::aminmax(tokens);
  if (low.item<int64_t>() < 0 || high.item<int64_t>() >= config.vocab_size)
    throw MismatchError(fmt::format("token id {} is outside the model's vocabulary of {}",
                                    low.item<int64_t>() < 0 ? low.item<int64_t>() : high.item<int64_t>(), config.vocab_size));
}

Decoder::Decoder(ModelConfig config, const TensorSource& tensors, const Placement& placement)
    : config_(std::move(config)), placement_(placement), weights_(load_weights(config_, tensors, placement, "checkpoint")) {
  inverse_frequencies_ = inverse_frequencies(config_, placement);
}

Decoder::Decoder(ModelConfig config, DecoderWeights weights) : config_(std::move(config)), weights_(std::move(weights)) {
  inverse_frequencies_ = inverse_frequencies(config_, placement_);
}

Decoder::Decoder(const Checkpoint& checkpoint, const Placement& placement)
    : config_(ModelConfig::from_json(*checkpoint.config, (checkpoint.path / "config.json").string())),
      placement_(placement),
      weights_(load_weights(config_, *checkpoint.tensors, placement, checkpoint.path)) {
  inverse_frequencies_ = inverse_frequencies(config_, placement);
  auto rounding = activation_rounding(*checkpoint.config, config_, *checkpoint.tensors, checkpoint.path / "config.json");
  for (size_t i = 0; i < rounding.size(); ++i) weights_.layers[i].rounding = std::move(rounding[i]);
}

Tensor Decoder::hidden(const Tensor& tokens, const ForwardOptions& options) const {
  require_trainable(weights_.layers);
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  OVERPROOF_CHECK(!options.segments.defined() || options.segments.sizes() == tokens.sizes());
  const Sight seen = sight(length, options.segments);
  Tensor x = embed(tokens);
  for (int64_t l = 0; l < config_.layers; ++l) {
    const Tensor attended = attention(l, x, seen, batch, length, nullptr);
    x = ffn_block(l, attended, options);
    if (options.layers) options.layers->push_back({attended, x});
  }
  return last_norm(x);
}

Tensor Decoder::last_norm(const Tensor& x) const { return ops::rms_norm(x, weights_.final_norm, config_.rms_norm_eps); }

Tensor Decoder::logits(const Tensor& hidden) const {
  const bool exact = at::GradMode::is_enabled() || ops::operand_type(hidden) == hidden.scalar_type();
  return exact ? ops::linear(hidden, head()) : ops::logits(hidden, head());
}

Tensor Decoder::embed(const Tensor& tokens) const {
  check_tokens(tokens, config_);
  return at::embedding(weights_.embedding, tokens.reshape({-1}).to(placement_.device));
}

Decoder::Sight Decoder::sight(int64_t length, const Tensor& segments) const {
  const ops::RotaryAngles angles = ops::rotary_angles(inverse_frequencies_, 0, length);
  if (!segments.defined()) return {angles, {}};
  const Tensor position = positions_in(segments).reshape({-1}).to(placement_.device);
  return {{angles.cos.index_select(0, position), angles.sin.index_select(0, position)}, visible_in(segments).to(placement_.device)};
}

Tensor Decoder::attention_block(int64_t layer, const Tensor& x, int64_t batch, AttentionInputs* seen, const Tensor& segments) const {
  const int64_t length = x.size(0) / batch;
  OVERPROOF_CHECK(!segments.defined() || (segments.size(0) == batch && segments.size(1) == length));
  return attention(layer, x, sight(length, segments), batch, length, seen);
}

/// Attention with its output projection and residual.
Tensor Decoder::attention(int64_t layer, const Tensor& x, const Sight& sight, int64_t batch, int64_t length, AttentionInputs* seen) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  static const LayerRounding kNone;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kNone;
  const Tensor h = ops::rms_norm(x, w.input_norm, c.rms_norm_eps, w.rounding ? x.scalar_type() : ops::operand_type(x));
  const Tensor for_q = rounded(rounding.q, h);
  const Tensor for_k = rounding.k == rounding.q ? for_q : rounded(rounding.k, h);  // dynamic scales: one tensor for all three
  const Tensor for_v = rounding.v == rounding.q ? for_q : rounded(rounding.v, h);
  const LayerAdapters& adapters = adapters_of(w);
  Tensor q = adapted(ops::linear(for_q, w.q, w.q_bias), for_q, adapters.q).view({-1, c.heads, c.head_dim});
  Tensor k = adapted(ops::linear(for_k, w.k, w.k_bias), for_k, adapters.k).view({-1, c.kv_heads, c.head_dim});
  const Tensor v = by_head(adapted(ops::linear(for_v, w.v, w.v_bias), for_v, adapters.v).view({-1, c.kv_heads, c.head_dim}), batch, length);
  if (w.q_norm.defined()) {
    q = ops::rms_norm(q, w.q_norm, c.rms_norm_eps);
    k = ops::rms_norm(k, w.k_norm, c.rms_norm_eps);
  }
  q = by_head(ops::rotate_positions(q, sight.angles), batch, length);
  k = by_head(ops::rotate_positions(k, sight.angles), batch, length);
  const Tensor mixed = ops::attention(q, k, v, sight.mask).transpose(1, 2).reshape({batch * length, c.heads * c.head_dim});
  if (seen) *seen = {h.to(x.scalar_type()), mixed.to(x.scalar_type())};
  return adapted(ops::linear(rounded(rounding.o, mixed), w.o, {}, x), mixed, adapters.o);
}

Tensor Decoder::ffn_input(int64_t layer, const Tensor& x) const {
  return ops::rms_norm(x, weights_.layers[size_t(layer)].post_norm, config_.rms_norm_eps);
}

ops::Routing Decoder::route(int64_t layer, const Tensor& ffn_input, int64_t top_k) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  return ops::route(ffn_input, w.router, w.router_bias, top_k > 0 ? top_k : config_.top_k, config_);
}

FfnPass Decoder::ffn_pass(int64_t layer, int64_t ffn, const Tensor& rows) const {
  at::NoGradGuard no_grad;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  static const FfnRounding kNone;
  const Tensor gate_up = ffn == kDenseFfn ? w.gate_up : w.expert_gate_up[ffn];
  const Tensor down = ffn == kDenseFfn ? w.down : w.expert_down[ffn];
  const FfnRounding& rounding = !w.rounding ? kNone : ffn == kDenseFfn ? w.rounding->dense : w.rounding->experts[size_t(ffn)];
  const int64_t width = down.size(1);
  const Tensor z = at::empty({rows.size(0), 2 * width}, rows.options());
  if (rounding.gate == rounding.up) {
    ops::matmul_into(z, rounded(rounding.gate, rows), gate_up.t());
  } else {
    ops::matmul_into(z.narrow(1, 0, width), rounded(rounding.gate, rows), gate_up.narrow(0, 0, width).t());
    ops::matmul_into(z.narrow(1, width, width), rounded(rounding.up, rows), gate_up.narrow(0, width, width).t());
  }
  const bool biased = ffn == kDenseFfn && w.gate_up_bias.defined();
  if (biased) z.add_(w.gate_up_bias);
  const FfnPass pass{ops::swiglu(z), at::empty({rows.size(0), down.size(0)}, rows.options())};
  ops::matmul_into(pass.out, rounded(rounding.down, pass.activation), down.t());
  if (biased) pass.out.add_(w.down_bias);
  return pass;
}

Tensor Decoder::ffn_block(int64_t layer, const Tensor& x, const ForwardOptions& options) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  // As ffn_input(), in the type in which products take it.
  const Tensor h = ops::rms_norm(x, w.post_norm, config_.rms_norm_eps, w.rounding ? x.scalar_type() : ops::operand_type(x));
  if (options.on_ffn_input) options.on_ffn_input(layer, h.to(x.scalar_type()));
  Tensor out = x;
  if (w.gate_up.defined())
    out = w.rounding && w.rounding->dense.any() ? ffn_pass(layer, kDenseFfn, h).out.add_(x)
          : has_ffn(adapters_of(w)) || w.gate_up_bias.defined() ? adapted_feed_forward(h, w, x)
                                                : ops::feed_forward(h, w.gate_up, w.down, x);
  if (!config_.is_moe()) return out;
  const ops::Routing routing = route(layer, h, options.top_k);
  if (options.routing)
    options.routing->push_back({ops::expert_load(routing.selected, config_.n_routed_experts),
                                options.record_selected ? routing.selected : Tensor(),
                                options.record_scores ? routing.recorded_scores : Tensor()});
  if (w.rounding) return rounded_mixture(layer, h, out, routing);
  return ops::expert_mixture(h, out, routing, w.expert_gate_up, w.expert_down);
}

/// As ops::expert_mixture, each expert with its own rounding.
Tensor Decoder::rounded_mixture(int64_t layer, const Tensor& x, const Tensor& base, const ops::Routing& routing) const {
  const int64_t k = routing.selected.size(1);
  const Tensor weights = routing.weights.reshape({-1});
  const Tensor out = base.clone();
  for (int64_t e = 0; e < config_.n_routed_experts; ++e) {  // ascending, so that each token's sum has one order
    const Tensor pairs = ops::pairs_of_expert(routing.selected, e);
    if (pairs.numel() == 0) continue;
    const Tensor tokens = pairs.div(k, "floor"), y = ffn_pass(layer, e, x.index_select(0, tokens)).out;
    out.index_add_(0, tokens, y.mul_(weights.index_select(0, pairs).unsqueeze(1)));  // a token occurs at most once in `tokens`
  }
  return out;
}

void Decoder::set_adapters(std::vector<std::shared_ptr<LayerAdapters>> adapters) {
  OVERPROOF_CHECK(adapters.empty() || adapters.size() == weights_.layers.size());
  for (size_t l = 0; l < weights_.layers.size(); ++l) weights_.layers[l].adapters = adapters.empty() ? nullptr : adapters[l];
}

void Decoder::set_active_experts(int64_t top_k) {
  OVERPROOF_CHECK(config_.is_moe() && top_k >= 1 && top_k <= config_.n_routed_experts);
  config_.top_k = top_k;
}

std::vector<NamedTensor> Decoder::parameters() const {
  std::vector<NamedTensor> all;
  const auto add = [&](std::string name, const Tensor& tensor) {
    if (tensor.defined()) all.push_back({std::move(name), tensor});
  };
  add("embedding", weights_.embedding);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    const LayerWeights& w = weights_.layers[i];
    const std::string at = fmt::format("layers.{}.", i);
    add(at + "input_norm", w.input_norm);
    add(at + "attention.q", w.q);
    add(at + "attention.k", w.k);
    add(at + "attention.v", w.v);
    add(at + "attention.q_bias", w.q_bias);
    add(at + "attention.k_bias", w.k_bias);
    add(at + "attention.v_bias", w.v_bias);
    add(at + "attention.q_norm", w.q_norm);
    add(at + "attention.k_norm", w.k_norm);
    add(at + "attention.o", w.o);
    add(at + "post_norm", w.post_norm);
    add(at + "ffn.gate_up", w.gate_up);
    add(at + "ffn.down", w.down);
    add(at + "ffn.gate_up_bias", w.gate_up_bias);
    add(at + "ffn.down_bias", w.down_bias);
    add(at + "experts.gate_up", w.expert_gate_up);
    add(at + "experts.down", w.expert_down);
    add(at + "router", w.router);
    add(at + "router_bias", w.router_bias);
  }
  add("final_norm", weights_.final_norm);
  add("head", weights_.head);
  return all;
}

}  // namespace overproof
