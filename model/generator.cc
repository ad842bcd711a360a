#include "model/generator.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "model/activation_rounding.h"
#include "model/decoder_parts.h"
#include "model/generator_weights.h"
#include "model/host_values.h"
#include "model/ops/attention.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rotary.h"
#include "model/ops/row_products.h"
#include "model/ops/swiglu.h"

namespace overproof {
namespace {

using at::Tensor;
using ops::RowMatrix;
using ops::RowProduct;

constexpr int64_t kLeastRoom = 64;  // tokens

/// Makes `cache` large enough for `added` more tokens of a layer, whose keys or values are [kv_heads, .., dim].
void make_room(KvCache& cache, std::vector<Tensor>& of, size_t layer, int64_t added, int64_t kv_heads, int64_t dim, const Tensor& like) {
  if (of.size() <= layer) of.resize(layer + 1);
  const int64_t all = cache.length + added;
  if (of[layer].defined() && of[layer].size(1) >= all) return;
  const int64_t room = std::max({cache.expected, all <= cache.expected ? 0 : 2 * all, kLeastRoom});
  Tensor grown = at::empty({kv_heads, room, dim}, like.options());
  if (of[layer].defined() && cache.length > 0) grown.narrow(1, 0, cache.length).copy_(of[layer].narrow(1, 0, cache.length));
  of[layer] = grown;
}

}  // namespace

/// What a call extends: one sequence by `added` tokens, or several by one each.
struct Generator::Sequences {
  std::span<KvCache* const> caches;
  int64_t added = 1;
  int64_t whole = 0;  ///< tokens of the text by which RoPE goes; 0: those so far
};

KvCache KvCache::copy() const {
  KvCache other = *this;
  for (auto* tensors : {&other.keys, &other.values})
    for (Tensor& t : *tensors) t = t.clone();
  return other;
}

Generator::Generator(ModelConfig config, const TensorSource& tensors, const Placement& placement)
    : config_(std::move(config)),
      placement_(placement),
      weights_(std::make_unique<GeneratorWeights>(load_generator_weights(config_, tensors, placement, "checkpoint"))) {
  set_rope();
}

Generator::Generator(const Checkpoint& checkpoint, const Placement& placement)
    : config_(ModelConfig::from_json(*checkpoint.config, (checkpoint.path / "config.json").string())),
      placement_(placement) {
  set_rope();
  auto weights = std::make_unique<GeneratorWeights>(load_generator_weights(config_, *checkpoint.tensors, placement, checkpoint.path));
  auto rounding = activation_rounding(*checkpoint.config, config_, *checkpoint.tensors, checkpoint.path / "config.json");
  for (size_t i = 0; i < rounding.size(); ++i) weights->layers[i].rounding = std::move(rounding[i]);
  weights_ = std::move(weights);
}

void Generator::set_rope() {
  rope_ = Rope(config_.rope, config_.head_dim, placement_);
  if (config_.window_rope) window_rope_ = Rope(*config_.window_rope, config_.head_dim, placement_);
}

Generator::Generator(Generator&&) noexcept = default;
Generator::~Generator() = default;

Tensor Generator::hidden_cached(const Tensor& tokens, KvCache& cache) const {
  OVERPROOF_CHECK(tokens.dim() == 2 && tokens.size(0) == 1);
  KvCache* const caches[] = {&cache};
  return run(tokens.squeeze(0), {caches, tokens.size(1)});
}

Tensor Generator::hidden_next(const Tensor& tokens, std::span<KvCache* const> caches) const {
  OVERPROOF_CHECK(tokens.dim() == 1 && tokens.size(0) == int64_t(caches.size()));
  return run(tokens, {caches, 1});
}

Tensor Generator::next_logits(const Tensor& hidden) const {
  at::NoGradGuard no_grad;
  return capped(ops::row_linear(hidden, weights_->head), config_.logit_cap);
}

/// Computes the sequence again with the frequencies of a text of `whole` tokens, as transformers' Phi-3 does at that point.
void Generator::turn_anew(KvCache& cache, int64_t whole) const {
  const Tensor tokens = at::tensor(cache.tokens, at::kLong);
  KvCache again{.keys = {}, .values = {}, .expected = cache.expected};
  KvCache* const caches[] = {&again};
  run(tokens, {caches, tokens.size(0), whole});
  cache = std::move(again);
}

ops::RotaryAngles Generator::next_angles(const Rope& rope, const Sequences& sequences) const {
  std::vector<Tensor> cos, sin;  // of each sequence alone: a vectorised cosine may differ by the place of a number
  for (const KvCache* cache : sequences.caches) {
    const ops::RotaryAngles angles = rope.angles(cache->length, sequences.added, sequences.whole > 0 ? sequences.whole : cache->length + sequences.added);
    cos.push_back(angles.cos);
    sin.push_back(angles.sin);
  }
  return {at::cat(cos), at::cat(sin)};
}

Tensor Generator::run(const Tensor& tokens, const Sequences& sequences) const {
  at::NoGradGuard no_grad;
  check_tokens(tokens, config_);
  if (config_.rope.type == "longrope") {
    const std::span<const int64_t> ids = host_values<int64_t>(tokens);  // `added` of one sequence, or one of each
    for (size_t i = 0; i < sequences.caches.size(); ++i) {
      KvCache& cache = *sequences.caches[i];
      cache.tokens.resize(size_t(cache.length));  // a caller may have gone back
      const int64_t whole = sequences.whole > 0 ? sequences.whole : cache.length + sequences.added;
      const bool of_long_text = whole > config_.rope.original_max_position;
      if (cache.length > 0 && cache.of_long_text != of_long_text) turn_anew(cache, whole);
      cache.of_long_text = of_long_text;
      const auto own = sequences.caches.size() == 1 ? ids : ids.subspan(i, 1);
      cache.tokens.insert(cache.tokens.end(), own.begin(), own.end());
    }
  }
  const ops::RotaryAngles angles = next_angles(rope_, sequences), window_angles = config_.window_rope ? next_angles(window_rope_, sequences) : angles;
  Tensor x = weights_->embedding.row_values(tokens.to(placement_.device)).to(placement_.dtype);
  if (config_.embedding_scale != 1.0) x.mul_(config_.embedding_scale);
  for (int64_t l = 0; l < config_.layers; ++l) {
    const GeneratorLayer& w = weights_->layers[size_t(l)];
    const Tensor attended = attention(l, x, config_.shape_of(l).windowed ? window_angles : angles, sequences);
    const Tensor h = config_.places == NormPlaces::parallel ? normed(config_, x, w.input_norm, w.input_norm_bias)
                                                            : normed(config_, attended, w.post_norm, w.post_norm_bias);
    x = ffn(w, attended, h);
  }
  for (KvCache* cache : sequences.caches) cache->length += sequences.added;
  x = normed(config_, x, weights_->final_norm, weights_->final_norm_bias);
  return config_.logit_scale == 1.0 ? x : x * config_.logit_scale;
}

/// Queries, keys and values, without RoPE.
Generator::Projections Generator::project(const GeneratorLayer& w, const Tensor& h) const {
  if (config_.is_latent()) return project_latent(w, h);
  const ModelConfig& c = config_;
  static const LayerRounding kNone;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kNone;
  const int64_t rows = h.size(0);
  const Tensor for_q = rounded(rounding.q, h);
  const Tensor for_k = rounding.k == rounding.q ? for_q : rounded(rounding.k, h);  // dynamic scales: one tensor for all three
  const Tensor for_v = rounding.v == rounding.q ? for_q : rounded(rounding.v, h);
  const auto room = [&](int64_t heads) { return at::empty({rows, heads * c.head_dim}, h.options()); };
  Tensor q = room(c.heads), k = room(c.kv_heads), v = room(c.kv_heads);
  const RowProduct products[] = {{for_q, &w.q, q, rows}, {for_k, &w.k, k, rows}, {for_v, &w.v, v, rows}};
  ops::row_products(products);
  if (w.q_bias.defined()) {
    q.add_(w.q_bias);
    k.add_(w.k_bias);
    v.add_(w.v_bias);
  }
  q = q.view({rows, c.heads, c.head_dim});
  k = k.view({rows, c.kv_heads, c.head_dim});
  v = v.view({rows, c.kv_heads, c.head_dim});
  if (w.q_norm.defined()) {
    q = normed_heads(c, q, w.q_norm);
    k = normed_heads(c, k, w.k_norm);
  }
  return {q, k, v};
}

Generator::Projections Generator::project_latent(const GeneratorLayer& w, const Tensor& h) const {
  const ModelConfig& c = config_;
  const int64_t rows = h.size(0);
  const Tensor for_q = w.q_a.defined() ? ops::rms_norm(ops::row_linear(h, w.q_a), w.q_a_norm, kLatentNormEps) : h;
  const Tensor compressed = ops::row_linear(h, w.kv_a);
  const Tensor kv = ops::row_linear(ops::rms_norm(compressed.narrow(1, 0, c.kv_rank).contiguous(), w.kv_a_norm, kLatentNormEps), w.kv_b);
  const LatentHeads heads = latent_heads(c, kv.view({rows, c.heads, c.nope_dim + c.value_dim}), compressed.narrow(1, c.kv_rank, c.rope_dim));
  return {ops::row_linear(for_q, w.q).view({rows, c.heads, c.head_dim}), heads.k, heads.v};
}

/// Adds keys and values to the caches and returns what the queries see, [rows, heads x attention_width].
Tensor Generator::attend(int64_t layer, const Projections& p, const Sequences& sequences) const {
  const ModelConfig& c = config_;
  const int64_t rows = p.q.size(0), width = attention_width(c), window = c.shape_of(layer).windowed ? c.window : 0;
  std::vector<Tensor> keys, values;
  for (KvCache* cache : sequences.caches) {
    make_room(*cache, cache->keys, size_t(layer), sequences.added, c.kv_heads, width, p.k);
    make_room(*cache, cache->values, size_t(layer), sequences.added, c.kv_heads, width, p.v);
    keys.push_back(cache->keys[size_t(layer)]);
    values.push_back(cache->values[size_t(layer)]);
  }
  if (sequences.added == 1) {
    std::vector<int64_t> lengths, begins;
    for (const KvCache* cache : sequences.caches) lengths.push_back(cache->length);
    ops::store_positions(p.k, keys, lengths);
    ops::store_positions(p.v, values, lengths);
    for (int64_t& length : lengths) ++length;
    if (window > 0)
      for (const int64_t length : lengths) begins.push_back(std::max<int64_t>(0, length - window));
    return ops::row_attention(p.q, keys, values, lengths, begins, c.attention_cap);
  }
  const int64_t length = sequences.caches[0]->length, all = length + sequences.added;
  keys[0].narrow(1, length, sequences.added).copy_(p.k.transpose(0, 1));
  values[0].narrow(1, length, sequences.added).copy_(p.v.transpose(0, 1));
  const auto seen = [&](const Tensor& t) { return t.narrow(1, 0, all).unsqueeze(0); };
  const Tensor mask = window > 0 && window < all ? window_mask(rows, all, window).to(placement_.device) : Tensor();
  return ops::attention(p.q.transpose(0, 1).unsqueeze(0), seen(keys[0]), seen(values[0]), mask, c.attention_cap)
      .transpose(1, 2)
      .reshape({rows, c.heads * width});
}

Tensor Generator::attention(int64_t layer, const Tensor& x, const ops::RotaryAngles& angles, const Sequences& sequences) const {
  const ModelConfig& c = config_;
  const GeneratorLayer& w = weights_->layers[size_t(layer)];
  Projections p = project(w, normed(c, x, w.input_norm, w.input_norm_bias));
  if (c.shape_of(layer).rope) {
    p.q = ops::rotate_positions(p.q, angles);  // row i at position i of one sequence, or at the next one of sequence i
    p.k = ops::rotate_positions(p.k, angles);
  }
  if (const double factor = query_factor(c); factor != 1.0) p.q = p.q * factor;
  p = {widened(c, p.q), widened(c, p.k), widened(c, p.v).contiguous()};
  Tensor mixed = attend(layer, p, sequences);
  if (attention_width(c) > c.value_width())
    mixed = mixed.view({x.size(0), c.heads, attention_width(c)}).narrow(2, 0, c.value_width()).reshape({x.size(0), c.heads * c.value_width()});
  if (w.rounding) mixed = rounded(w.rounding->o, mixed);
  if (!w.attention_out_norm.defined() && c.residual_scale == 1.0) return ops::row_linear(mixed, w.o, w.o_bias, x);
  return at::add(x, normed(c, ops::row_linear(mixed, w.o, w.o_bias), w.attention_out_norm), c.residual_scale);
}

/// x and all blocks of a layer for their input h: the dense or shared one over every row, and each expert over the rows that chose it.
Tensor Generator::ffn(const GeneratorLayer& w, const Tensor& x, const Tensor& h) const {
  const int64_t rows = x.size(0);

  // The pairs of a row and one of its experts, by expert.
  std::vector<int64_t> begin(w.experts.size() + 1, 0), row_of, pair_of;
  Tensor weights;
  if (w.router.defined()) {
    const ops::Routing routing =
        ops::route_scores(ops::row_linear(h.to(w.router.scalar_type()), w.router), w.router_bias, config_.top_k, config_);
    const Tensor selected = routing.selected.cpu().contiguous();
    const std::span<const int32_t> experts = host_values<int32_t>(selected);
    for (const int32_t e : experts) ++begin[size_t(e) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    row_of.resize(experts.size());
    pair_of.resize(experts.size());
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (size_t pair = 0; pair < experts.size(); ++pair) {
      const auto at = size_t(next[size_t(experts[pair])]++);
      row_of[at] = int64_t(pair) / config_.top_k;
      pair_of[at] = int64_t(pair);
    }
    weights = routing.weights.to(x.scalar_type()).reshape({-1});
    if (rows > 1) weights = weights.index_select(0, at::tensor(pair_of, at::kLong).to(placement_.device));
  }
  const auto pairs = int64_t(row_of.size());
  const Tensor chosen = rows == 1 || pairs == 0 ? h : h.index_select(0, at::tensor(row_of, at::kLong).to(placement_.device));

  /// One block: rows [x_first, x_first + count) of `in`, and [first, first + count) of its results.
  struct Pass {
    const GeneratorFfn* ffn;
    const FfnRounding* rounding;
    Tensor in, z, out;
    int64_t x_first, first, count;
  };
  const auto space = [&](int64_t n, int64_t width) { return at::empty({n, width}, x.options()); };
  static const FfnRounding kNone;
  std::vector<Pass> passes;
  Tensor dense_z, dense_out, expert_z, expert_out;
  if (w.dense.gate.defined()) {
    dense_z = space(rows, 2 * w.dense.gate.rows());
    dense_out = space(rows, config_.hidden_size);
    passes.push_back({&w.dense, w.rounding ? &w.rounding->dense : &kNone, h, dense_z, dense_out, 0, 0, rows});
  }
  if (pairs > 0) {
    expert_z = space(pairs, 2 * config_.moe_intermediate_size);
    expert_out = space(pairs, config_.hidden_size);
  }
  for (size_t e = 0; e < w.experts.size(); ++e)
    if (const int64_t count = begin[e + 1] - begin[e]; count > 0)
      passes.push_back({&w.experts[e], w.rounding ? &w.rounding->experts[e] : &kNone, chosen, expert_z, expert_out,
                        rows == 1 ? 0 : begin[e], begin[e], count});

  /// `in` rounded, of which a product takes rows from the returned one on.
  const auto input = [](const std::optional<ActivationRounding>& rounding, const Tensor& in, int64_t first, int64_t count) {
    return rounding ? std::pair(rounded(rounding, in.narrow(0, first, count)), int64_t(0)) : std::pair(in, first);
  };
  std::vector<RowProduct> products;
  for (const Pass& p : passes) {
    const auto [gate_in, gate_first] = input(p.rounding->gate, p.in, p.x_first, p.count);
    const auto [up_in, up_first] = p.rounding->gate == p.rounding->up ? std::pair(gate_in, gate_first)
                                                                       : input(p.rounding->up, p.in, p.x_first, p.count);
    products.push_back({gate_in, &p.ffn->gate, p.z, p.count, gate_first, p.first, 0});
    products.push_back({up_in, &p.ffn->up, p.z, p.count, up_first, p.first, p.ffn->gate.rows()});
  }
  ops::row_products(products);
  if (w.dense.gate_bias.defined()) {
    dense_z.narrow(1, 0, w.dense.gate.rows()).add_(w.dense.gate_bias);
    dense_z.narrow(1, w.dense.gate.rows(), w.dense.up.rows()).add_(w.dense.up_bias);
  }
  const bool silu = config_.activation == GateActivation::silu;
  const Tensor dense_a = !dense_z.defined() ? Tensor() : silu ? ops::swiglu(dense_z) : gated(config_.activation, dense_z);
  const Tensor expert_a = expert_z.defined() ? ops::swiglu(expert_z) : Tensor();
  products.clear();
  for (const Pass& p : passes) {
    const auto [in, first] = input(p.rounding->down, p.ffn == &w.dense ? dense_a : expert_a, p.first, p.count);
    products.push_back({in, &p.ffn->down, p.out, p.count, first, p.first, 0});
  }
  ops::row_products(products);
  if (w.dense.down_bias.defined()) dense_out.add_(w.dense.down_bias);
  if (w.shared_gate.defined()) dense_out.mul_(at::sigmoid(ops::row_linear(h, w.shared_gate)));
  if (w.ffn_out_norm.defined()) dense_out = normed(config_, dense_out, w.ffn_out_norm);
  if (dense_out.defined() && config_.residual_scale != 1.0) dense_out.mul_(config_.residual_scale);
  Tensor out = dense_out.defined() ? dense_out.add_(x) : x.clone();
  if (pairs > 0) ops::add_weighted_rows(out, expert_out, weights, row_of);  // by expert, so that each row's sum has one order
  return out;
}

}  // namespace overproof
