#include "model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "model/activation_rounding.h"
#include "model/adapters.h"
#include "model/decoder_parts.h"
#include "model/host_values.h"
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

/// Angles of tokens at the places `position` I64 [tokens] of segments whose lengths are `lengths` I64 [tokens].
ops::RotaryAngles angles_at(const Rope& rope, int64_t length, const Tensor& position, const Tensor& lengths) {
  const auto of = [&](int64_t whole) {
    const ops::RotaryAngles all = rope.angles(0, length, whole);
    const Tensor places = position.to(all.cos.device());
    return ops::RotaryAngles{all.cos.index_select(0, places), all.sin.index_select(0, places)};
  };
  if (!rope.by_length()) return of(length);
  const Tensor distinct = std::get<0>(at::_unique(lengths));
  ops::RotaryAngles angles;
  for (const int64_t whole : host_values<int64_t>(distinct)) {
    const ops::RotaryAngles own = of(whole);
    const Tensor here = lengths.eq(whole).unsqueeze(1).to(own.cos.device());
    angles = angles.cos.defined() ? ops::RotaryAngles{at::where(here, own.cos, angles.cos), at::where(here, own.sin, angles.sin)} : own;
  }
  return angles;
}

const LayerAdapters& adapters_of(const LayerWeights& w) {
  static const LayerAdapters kNone;
  return w.adapters ? *w.adapters : kNone;
}

bool has_ffn(const LayerAdapters& a) { return a.gate.a.defined() || a.up.a.defined() || a.down.a.defined(); }

/// As ops::feed_forward, with biases, adapters and any activation. `residual` may be undefined.
Tensor general_feed_forward(GateActivation activation, const Tensor& h, const LayerWeights& w, const Tensor& residual) {
  const LayerAdapters& a = adapters_of(w);
  Tensor z = ops::linear(h, w.gate_up, w.gate_up_bias);
  if (has_ffn(a)) {
    const int64_t width = w.down.size(1);
    z = at::cat({adapted(z.narrow(1, 0, width), h, a.gate), adapted(z.narrow(1, width, width), h, a.up)}, 1);
  }
  const Tensor activated = gated(activation, z);
  return adapted(ops::linear(activated, w.down, w.down_bias, residual), activated, a.down);
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

Decoder::Decoder(ModelConfig config, const TensorSource& tensors, const Placement& placement)
    : config_(std::move(config)), placement_(placement), weights_(load_weights(config_, tensors, placement, "checkpoint")) {
  set_rope();
}

Decoder::Decoder(ModelConfig config, DecoderWeights weights) : config_(std::move(config)), weights_(std::move(weights)) { set_rope(); }

Decoder::Decoder(const Checkpoint& checkpoint, const Placement& placement)
    : config_(ModelConfig::from_json(*checkpoint.config, (checkpoint.path / "config.json").string())),
      placement_(placement),
      weights_(load_weights(config_, *checkpoint.tensors, placement, checkpoint.path)) {
  set_rope();
  auto rounding = activation_rounding(*checkpoint.config, config_, *checkpoint.tensors, checkpoint.path / "config.json");
  for (size_t i = 0; i < rounding.size(); ++i) weights_.layers[i].rounding = std::move(rounding[i]);
}

void Decoder::set_rope() {
  rope_ = Rope(config_.rope, config_.head_dim, placement_);
  if (config_.window_rope) window_rope_ = Rope(*config_.window_rope, config_.head_dim, placement_);
}

Tensor Decoder::hidden(const Tensor& tokens, const ForwardOptions& options) const {
  require_trainable(weights_.layers);
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  OVERPROOF_CHECK(!options.segments.defined() || options.segments.sizes() == tokens.sizes());
  const Sight seen = sight(length, options.segments);
  Tensor x = embed(tokens);
  for (int64_t l = 0; l < config_.layers; ++l) {
    const Tensor attended = attention(l, x, seen, batch, length, nullptr);
    x = ffn_block(l, attended, x, options);
    if (options.layers) options.layers->push_back({attended, x});
  }
  return last_norm(x);
}

Tensor Decoder::last_norm(const Tensor& x) const {
  const Tensor y = normed(config_, x, weights_.final_norm, weights_.final_norm_bias);
  return config_.logit_scale == 1.0 ? y : y * config_.logit_scale;
}

Tensor Decoder::logits(const Tensor& hidden) const {
  const bool exact = at::GradMode::is_enabled() || ops::operand_type(hidden) == hidden.scalar_type();
  return capped(exact ? ops::linear(hidden, head()) : ops::logits(hidden, head()), config_.logit_cap);
}

Tensor Decoder::embed(const Tensor& tokens) const {
  check_tokens(tokens, config_);
  const Tensor x = at::embedding(weights_.embedding, tokens.reshape({-1}).to(placement_.device));
  return config_.embedding_scale == 1.0 ? x : x * config_.embedding_scale;
}

Decoder::Sight Decoder::sight(int64_t length, const Tensor& segments) const {
  const bool windows = config_.has_windows() && config_.window < length;
  Sight sight;
  if (!segments.defined()) {
    sight.angles = rope_.angles(0, length, length);
    sight.window_angles = config_.window_rope ? window_rope_.angles(0, length, length) : sight.angles;
    if (windows) sight.window_mask = window_mask(length, length, config_.window).to(placement_.device);
    return sight;
  }
  const Tensor position = positions_in(segments).reshape({-1});
  const Tensor lengths = rope_.by_length() || (config_.window_rope && window_rope_.by_length())
                             ? segments.unsqueeze(2).eq(segments.unsqueeze(1)).sum(2).reshape({-1})
                             : Tensor();
  sight.angles = angles_at(rope_, length, position, lengths);
  sight.window_angles = config_.window_rope ? angles_at(window_rope_, length, position, lengths) : sight.angles;
  const Tensor visible = visible_in(segments);
  sight.mask = visible.to(placement_.device);
  sight.window_mask = windows ? visible.logical_and(window_mask(length, length, config_.window)).to(placement_.device) : sight.mask;
  return sight;
}

Tensor Decoder::attention_block(int64_t layer, const Tensor& x, int64_t batch, AttentionInputs* seen, const Tensor& segments) const {
  const int64_t length = x.size(0) / batch;
  OVERPROOF_CHECK(!segments.defined() || (segments.size(0) == batch && segments.size(1) == length));
  return attention(layer, x, sight(length, segments), batch, length, seen);
}

/// Queries, keys and values, without RoPE.
Decoder::Projections Decoder::project(int64_t layer, const Tensor& h, AttentionInputs* seen) const {
  if (config_.is_latent()) return project_latent(layer, h, seen);
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  static const LayerRounding kNone;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kNone;
  const Tensor for_q = rounded(rounding.q, h);
  const Tensor for_k = rounding.k == rounding.q ? for_q : rounded(rounding.k, h);  // dynamic scales: one tensor for all three
  const Tensor for_v = rounding.v == rounding.q ? for_q : rounded(rounding.v, h);
  const LayerAdapters& adapters = adapters_of(w);
  Projections p;
  p.q = adapted(ops::linear(for_q, w.q, w.q_bias), for_q, adapters.q).view({-1, c.heads, c.head_dim});
  p.k = adapted(ops::linear(for_k, w.k, w.k_bias), for_k, adapters.k).view({-1, c.kv_heads, c.head_dim});
  p.v = adapted(ops::linear(for_v, w.v, w.v_bias), for_v, adapters.v).view({-1, c.kv_heads, c.head_dim});
  if (w.q_norm.defined()) {
    p.q = normed_heads(c, p.q, w.q_norm);
    p.k = normed_heads(c, p.k, w.k_norm);
  }
  return p;
}

Decoder::Projections Decoder::project_latent(int64_t layer, const Tensor& h, AttentionInputs* seen) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  const Tensor for_q = w.q_a.defined() ? ops::rms_norm(ops::linear(h, w.q_a), w.q_a_norm, kLatentNormEps) : h;
  const Tensor compressed = ops::linear(h, w.kv_a);
  const Tensor for_kv = ops::rms_norm(compressed.narrow(1, 0, c.kv_rank).contiguous(), w.kv_a_norm, kLatentNormEps);
  if (seen) seen->q_b = w.q_a.defined() ? for_q : Tensor(), seen->kv_b = for_kv;
  const Tensor kv = ops::linear(for_kv, w.kv_b).view({-1, c.heads, c.nope_dim + c.value_dim});
  const LatentHeads heads = latent_heads(c, kv, compressed.narrow(1, c.kv_rank, c.rope_dim));
  return {ops::linear(for_q, w.q).view({-1, c.heads, c.head_dim}), heads.k, heads.v};
}

/// Attention with its output projection and residual.
Tensor Decoder::attention(int64_t layer, const Tensor& x, const Sight& sight, int64_t batch, int64_t length, AttentionInputs* seen) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  const LayerShape shape = c.shape_of(layer);
  const Tensor h = normed(c, x, w.input_norm, w.input_norm_bias, w.rounding ? x.scalar_type() : ops::operand_type(x));
  Projections p = project(layer, h, seen);
  if (shape.rope) {
    const ops::RotaryAngles& angles = shape.windowed ? sight.window_angles : sight.angles;
    p.q = ops::rotate_positions(p.q, angles);
    p.k = ops::rotate_positions(p.k, angles);
  }
  if (const double factor = query_factor(c); factor != 1.0) p.q = p.q * factor;
  const int64_t width = attention_width(c), values = c.value_width();
  const Tensor q = by_head(widened(c, p.q), batch, length), k = by_head(widened(c, p.k), batch, length), v = by_head(widened(c, p.v), batch, length);
  Tensor mixed = ops::attention(q, k, v, shape.windowed ? sight.window_mask : sight.mask, c.attention_cap).transpose(1, 2);
  if (width > values) mixed = mixed.narrow(3, 0, values);
  mixed = mixed.reshape({batch * length, c.heads * values});
  // Without a norm h is x, which the caller may overwrite.
  if (seen) seen->qkv = w.input_norm.defined() ? h.to(x.scalar_type()) : h.clone(), seen->o = mixed.to(x.scalar_type());
  const Tensor for_o = w.rounding ? rounded(w.rounding->o, mixed) : mixed;
  if (!w.attention_out_norm.defined() && c.residual_scale == 1.0) return adapted(ops::linear(for_o, w.o, w.o_bias, x), mixed, adapters_of(w).o);
  const Tensor out = normed(c, ops::linear(for_o, w.o, w.o_bias).to(x.scalar_type()), w.attention_out_norm);
  return at::add(x, out, c.residual_scale);
}

/// The norm before the FFN, in the type in which products take it.
Tensor Decoder::ffn_norm(int64_t layer, const Tensor& x, at::ScalarType type) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  return config_.places == NormPlaces::parallel ? normed(config_, x, w.input_norm, w.input_norm_bias, type)
                                                : normed(config_, x, w.post_norm, w.post_norm_bias, type);
}

Tensor Decoder::ffn_input(int64_t layer, const Tensor& x) const { return ffn_norm(layer, x, x.scalar_type()); }

Tensor Decoder::ffn_output(int64_t layer, const Tensor& out) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  const Tensor y = normed(config_, out, w.ffn_out_norm);
  return config_.residual_scale == 1.0 ? y : y * config_.residual_scale;
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
  const FfnPass pass{config_.activation == GateActivation::silu ? ops::swiglu(z) : gated(config_.activation, z),
                     at::empty({rows.size(0), down.size(0)}, rows.options())};
  ops::matmul_into(pass.out, rounded(rounding.down, pass.activation), down.t());
  if (biased) pass.out.add_(w.down_bias);
  if (ffn == kDenseFfn && w.shared_gate.defined()) pass.out.mul_(at::sigmoid(ops::linear(rows, w.shared_gate)));
  return pass;
}

/// x and the dense or shared FFN of h.
Tensor Decoder::dense_ffn(int64_t layer, const Tensor& h, const Tensor& x) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  const bool plain = config_.activation == GateActivation::silu && !w.gate_up_bias.defined() && !has_ffn(adapters_of(w));
  const bool adds = !w.shared_gate.defined() && !w.ffn_out_norm.defined() && config_.residual_scale == 1.0;
  const bool rounds = w.rounding && w.rounding->dense.any();
  if (adds && rounds) return ffn_pass(layer, kDenseFfn, h).out.add_(x);
  if (adds && plain) return ops::feed_forward(h, w.gate_up, w.down, x);
  if (adds) return general_feed_forward(config_.activation, h, w, x);
  if (rounds) return at::add(x, ffn_output(layer, ffn_pass(layer, kDenseFfn, h).out));
  Tensor out = general_feed_forward(config_.activation, h, w, {}).to(x.scalar_type());
  if (w.shared_gate.defined()) out = out * at::sigmoid(ops::linear(h.to(x.scalar_type()), w.shared_gate));
  return at::add(x, ffn_output(layer, out));
}

/// `before`: the stream before the attention block.
Tensor Decoder::ffn_block(int64_t layer, const Tensor& x, const Tensor& before, const ForwardOptions& options) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  // As ffn_input(), in the type in which products take it.
  const Tensor h = ffn_norm(layer, config_.places == NormPlaces::parallel ? before : x, w.rounding ? x.scalar_type() : ops::operand_type(x));
  if (options.on_ffn_input) options.on_ffn_input(layer, h.to(x.scalar_type()));
  const Tensor out = w.gate_up.defined() ? dense_ffn(layer, h, x) : x;
  if (!w.router.defined()) return out;
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
    add(at + "attention.o_bias", w.o_bias);
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
