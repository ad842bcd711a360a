#include "model/decoder.h"

#include <ATen/ATen.h>

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "model/activation_rounding.h"
#include "model/functions.h"
#include "model/moe.h"
#include "model/rounded_ffn.h"

namespace overproof {
namespace {

using at::Tensor;

struct Angles {
  Tensor cos, sin;  ///< [length, head_dim / 2]
};

Angles angles(const Tensor& inverse_frequencies, int64_t first, int64_t length) {
  const Tensor positions = at::arange(first, first + length, at::kFloat);
  const Tensor a = positions.unsqueeze(1) * inverse_frequencies.unsqueeze(0);
  return {a.cos(), a.sin()};
}

/// [batch x length, heads, dim] -> [batch, heads, length, dim], a view.
Tensor by_head(const Tensor& x, int64_t batch, int64_t length) {
  return x.view({batch, length, x.size(1), x.size(2)}).transpose(1, 2);
}

/// Attention with its output projection and residual. With a cache, its keys and values come first and are extended.
Tensor attention(const Tensor& x, const LayerWeights& w, const ModelConfig& c, const Angles& angle, int64_t batch, int64_t length,
                 KvCache* cache, size_t layer, AttentionInputs* seen = nullptr) {
  static const LayerRounding kAsTheyAre;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kAsTheyAre;
  const Tensor h = nn::rms_norm(x, w.input_norm, c.rms_norm_eps);
  const Tensor for_q = rounded(rounding.q, h);
  const Tensor for_k = rounding.k == rounding.q ? for_q : rounded(rounding.k, h);  // dynamic scales: one tensor for all three
  const Tensor for_v = rounding.v == rounding.q ? for_q : rounded(rounding.v, h);
  Tensor q = nn::linear(for_q, w.q, w.q_bias).view({-1, c.heads, c.head_dim});
  Tensor k = nn::linear(for_k, w.k, w.k_bias).view({-1, c.kv_heads, c.head_dim});
  Tensor v = by_head(nn::linear(for_v, w.v, w.v_bias).view({-1, c.kv_heads, c.head_dim}), batch, length);
  if (w.q_norm.defined()) {
    q = nn::rms_norm(q, w.q_norm, c.rms_norm_eps);
    k = nn::rms_norm(k, w.k_norm, c.rms_norm_eps);
  }
  q = by_head(nn::rotate_positions(q, angle.cos, angle.sin), batch, length);
  k = by_head(nn::rotate_positions(k, angle.cos, angle.sin), batch, length);
  bool causal = length > 1;
  std::optional<Tensor> mask;
  if (cache) {
    if (cache->length > 0) {
      k = at::cat({cache->keys[layer], k}, 2);
      v = at::cat({cache->values[layer], v}, 2);
      // The built-in causal mask would align the first query with the first key.
      if (causal) mask = at::ones({length, k.size(2)}, at::kBool).tril(cache->length);
      causal = false;
    }
    cache->keys[layer] = k;
    cache->values[layer] = v;
  }
  const Tensor out = at::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, std::nullopt, c.heads != c.kv_heads);
  const Tensor mixed = out.transpose(1, 2).reshape({batch * length, c.heads * c.head_dim});
  if (seen) *seen = {h, mixed};
  return nn::linear(rounded(rounding.o, mixed), w.o, {}, x);
}

Tensor ffn(const Tensor& x, const LayerWeights& w, const ModelConfig& c, const ForwardOptions& options, int64_t layer) {
  const Tensor h = nn::rms_norm(x, w.post_norm, c.rms_norm_eps);
  if (options.on_ffn_input) options.on_ffn_input(layer, h);
  const FfnRounding* dense = w.rounding && w.rounding->dense.any() ? &w.rounding->dense : nullptr;
  Tensor out = x;
  if (w.gate_up.defined())
    out = dense ? rounded_feed_forward(h, w.gate_up, w.down, *dense).out.add_(x) : nn::feed_forward(h, w.gate_up, w.down, x);
  if (!c.is_moe()) return out;
  const Routing routing = route(h, w.router, w.router_bias, options.top_k > 0 ? options.top_k : c.top_k, c);
  if (options.routing)
    options.routing->push_back(
        {expert_load(routing.selected, c.n_routed_experts), options.record_selected ? routing.selected : Tensor()});
  if (w.rounding) return rounded_mixture(h, out, routing, w.expert_gate_up, w.expert_down, w.rounding->experts);
  return expert_mixture(h, out, routing, w.expert_gate_up, w.expert_down);
}

/// Rounding has no gradient, so training would go on without noticing that nothing is learnt.
void require_trainable(const std::vector<LayerWeights>& layers) {
  if (!at::GradMode::is_enabled()) return;
  for (const LayerWeights& w : layers)
    if (w.rounding && (w.q.requires_grad() || (w.router.defined() && w.router.requires_grad())))
      throw UsageError(
          "this checkpoint rounds its activations to 8 bits (quantization_config): it can be run, not trained; train its parent");
}

void check_tokens(const Tensor& tokens, const ModelConfig& config) {
  OVERPROOF_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong && tokens.numel() > 0);
  const auto [low, high] = at::aminmax(tokens);
  if (low.item<int64_t>() < 0 || high.item<int64_t>() >= config.vocab_size)
    throw UsageError(fmt::format("token id {} is outside the model's vocabulary of {}",
                                 low.item<int64_t>() < 0 ? low.item<int64_t>() : high.item<int64_t>(), config.vocab_size));
}

}  // namespace

Tensor Decoder::hidden(const Tensor& tokens, const ForwardOptions& options) const {
  require_trainable(layers_);
  const int64_t batch = tokens.size(0), length = tokens.size(1);
  const Angles angle = angles(inverse_frequencies_, 0, length);
  Tensor x = embed(tokens);
  for (size_t i = 0; i < layers_.size(); ++i) {
    x = attention(x, layers_[i], config_, angle, batch, length, nullptr, i);
    x = ffn(x, layers_[i], config_, options, int64_t(i));
  }
  return nn::rms_norm(x, final_norm_, config_.rms_norm_eps);
}

Tensor Decoder::hidden_cached(const Tensor& tokens, KvCache& cache) const {
  check_tokens(tokens, config_);
  OVERPROOF_CHECK(tokens.size(0) == 1);
  const int64_t length = tokens.size(1);
  cache.keys.resize(layers_.size());
  cache.values.resize(layers_.size());
  const Angles angle = angles(inverse_frequencies_, cache.length, length);
  Tensor x = at::embedding(embedding_, tokens.reshape({-1}));
  for (size_t i = 0; i < layers_.size(); ++i) {
    x = attention(x, layers_[i], config_, angle, 1, length, &cache, i);
    x = ffn(x, layers_[i], config_, {}, int64_t(i));
  }
  cache.length += length;
  return nn::rms_norm(x, final_norm_, config_.rms_norm_eps);
}

Tensor Decoder::embed(const Tensor& tokens) const {
  check_tokens(tokens, config_);
  return at::embedding(embedding_, tokens.reshape({-1}));
}

Tensor Decoder::attention_block(int64_t layer, const Tensor& x, int64_t batch, AttentionInputs* seen) const {
  const int64_t length = x.size(0) / batch;
  return attention(x, layers_[size_t(layer)], config_, angles(inverse_frequencies_, 0, length), batch, length, nullptr,
                   size_t(layer), seen);
}

Tensor Decoder::ffn_input(int64_t layer, const Tensor& x) const {
  return nn::rms_norm(x, layers_[size_t(layer)].post_norm, config_.rms_norm_eps);
}

Tensor Decoder::logits(const Tensor& hidden) const { return nn::linear(hidden, head()); }

std::vector<NamedTensor> Decoder::parameters() const {
  std::vector<NamedTensor> all;
  const auto add = [&](std::string name, const Tensor& tensor) {
    if (tensor.defined()) all.push_back({std::move(name), tensor});
  };
  add("embedding", embedding_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerWeights& w = layers_[i];
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
    add(at + "experts.gate_up", w.expert_gate_up);
    add(at + "experts.down", w.expert_down);
    add(at + "router", w.router);
    add(at + "router_bias", w.router_bias);
  }
  add("final_norm", final_norm_);
  add("head", head_);
  return all;
}

}  // namespace overproof
