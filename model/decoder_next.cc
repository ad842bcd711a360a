// Generation: prompts through the cache, and one token of several sequences at a time.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "model/activation_rounding.h"
#include "model/decoder.h"
#include "model/host_values.h"
#include "model/kv_cache.h"
#include "model/ops/linear.h"
#include "model/ops/rms_norm.h"
#include "model/ops/row_products.h"
#include "model/ops/swiglu.h"

namespace overproof {
namespace {

using at::Tensor;

constexpr int64_t kLeastRoom = 64;  // tokens

Tensor with_room(const Tensor& old, const Tensor& added, int64_t length, int64_t room) {
  Tensor grown = at::empty({1, added.size(1), room, added.size(3)}, added.options());
  if (length > 0) grown.narrow(2, 0, length).copy_(old.narrow(2, 0, length));
  return grown;
}

}  // namespace

std::pair<Tensor, Tensor> extend(KvCache& cache, int64_t layer, const Tensor& keys, const Tensor& values) {
  const auto l = size_t(layer);
  if (cache.keys.size() <= l) {
    cache.keys.resize(l + 1);
    cache.values.resize(l + 1);
  }
  const int64_t added = keys.size(2), all = cache.length + added;
  if (!cache.keys[l].defined() || cache.keys[l].size(2) < all) {
    const int64_t room = std::max({cache.expected, all <= cache.expected ? 0 : 2 * all, kLeastRoom});
    cache.keys[l] = with_room(cache.keys[l], keys, cache.length, room);
    cache.values[l] = with_room(cache.values[l], values, cache.length, room);
  }
  cache.keys[l].narrow(2, cache.length, added).copy_(keys);
  cache.values[l].narrow(2, cache.length, added).copy_(values);
  return {cache.keys[l].narrow(2, 0, all), cache.values[l].narrow(2, 0, all)};
}

KvCache KvCache::copy() const {
  KvCache other = *this;
  for (auto* tensors : {&other.keys, &other.values})
    for (Tensor& t : *tensors) t = t.clone();
  return other;
}

Tensor Decoder::hidden_cached(const Tensor& tokens, KvCache& cache) const {
  OVERPROOF_CHECK(tokens.dim() == 2 && tokens.size(0) == 1);
  at::NoGradGuard no_grad;
  const int64_t length = tokens.size(1);
  if (length == 1) {
    KvCache* const caches[] = {&cache};
    return hidden_next(tokens.squeeze(0), caches);
  }
  const ops::RotaryAngles angles = ops::rotary_angles(inverse_frequencies_, cache.length, length);
  Tensor x = embed(tokens);
  for (int64_t l = 0; l < config_.layers; ++l) {
    x = attention(l, x, angles, 1, length, &cache, nullptr);
    x = ffn_block(l, x, {});
  }
  cache.length += length;
  return ops::rms_norm(x, weights_.final_norm, config_.rms_norm_eps);
}

Tensor Decoder::hidden_next(const Tensor& tokens, std::span<KvCache* const> caches) const {
  OVERPROOF_CHECK(tokens.dim() == 1 && tokens.size(0) == int64_t(caches.size()));
  at::NoGradGuard no_grad;
  std::vector<Tensor> cos, sin;  // of each sequence alone: a vectorised cosine may differ by the place of a number
  for (const KvCache* cache : caches) {
    const ops::RotaryAngles angles = ops::rotary_angles(inverse_frequencies_, cache->length, 1);
    cos.push_back(angles.cos);
    sin.push_back(angles.sin);
  }
  const ops::RotaryAngles angles{at::cat(cos), at::cat(sin)};
  Tensor x = embed(tokens.unsqueeze(1));
  for (int64_t l = 0; l < config_.layers; ++l) {
    x = attention_next(l, x, angles, caches);
    x = ffn_next(l, x);
  }
  for (KvCache* cache : caches) ++cache->length;
  return ops::rms_norm(x, weights_.final_norm, config_.rms_norm_eps);
}

Tensor Decoder::next_logits(const Tensor& hidden) const {
  at::NoGradGuard no_grad;
  return ops::row_linear(hidden, head());
}

Tensor Decoder::attention_next(int64_t layer, const Tensor& x, const ops::RotaryAngles& angles,
                               std::span<KvCache* const> caches) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers[size_t(layer)];
  static const LayerRounding kNone;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kNone;
  const Tensor h = ops::rms_norm(x, w.input_norm, c.rms_norm_eps);
  Tensor q = ops::row_linear(rounded(rounding.q, h), w.q, w.q_bias).view({-1, c.heads, c.head_dim});
  Tensor k = ops::row_linear(rounded(rounding.k, h), w.k, w.k_bias).view({-1, c.kv_heads, c.head_dim});
  const Tensor v = ops::row_linear(rounded(rounding.v, h), w.v, w.v_bias).view({-1, c.kv_heads, c.head_dim});
  if (w.q_norm.defined()) {
    q = ops::rms_norm(q, w.q_norm, c.rms_norm_eps);
    k = ops::rms_norm(k, w.k_norm, c.rms_norm_eps);
  }
  q = ops::rotate_positions(q, angles);  // row i at the position of sequence i
  k = ops::rotate_positions(k, angles);
  std::vector<Tensor> keys, values;
  for (size_t i = 0; i < caches.size(); ++i) {
    const auto one = [&](const Tensor& t) { return t.narrow(0, int64_t(i), 1).unsqueeze(2); };
    const auto [all_keys, all_values] = extend(*caches[i], layer, one(k), one(v));
    keys.push_back(all_keys.squeeze(0));
    values.push_back(all_values.squeeze(0));
  }
  return ops::row_linear(rounded(rounding.o, ops::row_attention(q, keys, values)), w.o, {}, x);
}

Tensor Decoder::ffn_next(int64_t layer, const Tensor& x) const {
  const LayerWeights& w = weights_.layers[size_t(layer)];
  const Tensor h = ffn_input(layer, x);
  static const FfnRounding kNone;
  const auto pass = [&](int64_t ffn, const Tensor& rows) {
    const FfnRounding& rounding = !w.rounding ? kNone : ffn == kDenseFfn ? w.rounding->dense : w.rounding->experts[size_t(ffn)];
    const Tensor gate_up = ffn == kDenseFfn ? w.gate_up : w.expert_gate_up[ffn];
    const Tensor down = ffn == kDenseFfn ? w.down : w.expert_down[ffn];
    const int64_t width = down.size(1);
    const Tensor z = rounding.gate == rounding.up
                         ? ops::row_linear(rounded(rounding.gate, rows), gate_up)
                         : at::cat({ops::row_linear(rounded(rounding.gate, rows), gate_up.narrow(0, 0, width)),
                                    ops::row_linear(rounded(rounding.up, rows), gate_up.narrow(0, width, width))},
                                   1);
    return ops::row_linear(rounded(rounding.down, ops::swiglu(z)), down);
  };
  Tensor out = w.gate_up.defined() ? x + pass(kDenseFfn, h) : x.clone();
  if (!config_.is_moe()) return out;
  const ops::Routing routing = ops::route_scores(ops::row_linear(h.to(w.router.scalar_type()), w.router), w.router_bias,
                                                 config_.top_k, config_);
  const int64_t k = routing.selected.size(1);
  const Tensor weights = routing.weights.to(x.scalar_type()).reshape({-1});
  std::vector<std::vector<int64_t>> pairs_of(size_t(config_.n_routed_experts));
  const Tensor selected = routing.selected.cpu().contiguous();
  const std::span<const int32_t> experts = host_values<int32_t>(selected);
  for (size_t pair = 0; pair < experts.size(); ++pair) pairs_of[size_t(experts[pair])].push_back(int64_t(pair));
  for (size_t e = 0; e < pairs_of.size(); ++e) {  // ascending, so that each token's sum has one order
    if (pairs_of[e].empty()) continue;
    const Tensor pairs = at::tensor(pairs_of[e], at::kLong).to(placement_.device), rows = pairs.div(k, "floor");
    out.index_add_(0, rows, pass(int64_t(e), h.index_select(0, rows)).mul_(weights.index_select(0, pairs).unsqueeze(1)));
  }
  return out;
}

}  // namespace overproof
