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
      weights_(std::make_unique<GeneratorWeights>(load_generator_weights(config_, tensors, placement, "checkpoint"))),
      inverse_frequencies_(inverse_frequencies(config_, placement)) {}

Generator::Generator(const Checkpoint& checkpoint, const Placement& placement)
    : config_(ModelConfig::from_json(*checkpoint.config, (checkpoint.path / "config.json").string())),
      placement_(placement),
      inverse_frequencies_(inverse_frequencies(config_, placement)) {
  auto weights = std::make_unique<GeneratorWeights>(load_generator_weights(config_, *checkpoint.tensors, placement, checkpoint.path));
  auto rounding = activation_rounding(*checkpoint.config, config_, *checkpoint.tensors, checkpoint.path / "config.json");
  for (size_t i = 0; i < rounding.size(); ++i) weights->layers[i].rounding = std::move(rounding[i]);
  weights_ = std::move(weights);
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
  return ops::row_linear(hidden, weights_->head);
}

Tensor Generator::run(const Tensor& tokens, const Sequences& sequences) const {
  at::NoGradGuard no_grad;
  check_tokens(tokens, config_);
  std::vector<Tensor> cos, sin;  // of each sequence alone: a vectorised cosine may differ by the place of a number
  for (const KvCache* cache : sequences.caches) {
    const ops::RotaryAngles angles = ops::rotary_angles(inverse_frequencies_, cache->length, sequences.added);
    cos.push_back(angles.cos);
    sin.push_back(angles.sin);
  }
  const ops::RotaryAngles angles{at::cat(cos), at::cat(sin)};
  Tensor x = weights_->embedding.row_values(tokens.to(placement_.device)).to(placement_.dtype);
  for (int64_t l = 0; l < config_.layers; ++l) {
    x = attention(l, x, angles, sequences);
    x = ffn(weights_->layers[size_t(l)], x);
  }
  for (KvCache* cache : sequences.caches) cache->length += sequences.added;
  return ops::rms_norm(x, weights_->final_norm, config_.rms_norm_eps);
}

Tensor Generator::attention(int64_t layer, const Tensor& x, const ops::RotaryAngles& angles, const Sequences& sequences) const {
  const ModelConfig& c = config_;
  const GeneratorLayer& w = weights_->layers[size_t(layer)];
  static const LayerRounding kNone;
  const LayerRounding& rounding = w.rounding ? *w.rounding : kNone;
  const int64_t rows = x.size(0);
  const Tensor h = ops::rms_norm(x, w.input_norm, c.rms_norm_eps);
  const Tensor for_q = rounded(rounding.q, h);
  const Tensor for_k = rounding.k == rounding.q ? for_q : rounded(rounding.k, h);  // dynamic scales: one tensor for all three
  const Tensor for_v = rounding.v == rounding.q ? for_q : rounded(rounding.v, h);
  const auto room = [&](int64_t heads) { return at::empty({rows, heads * c.head_dim}, x.options()); };
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
    q = ops::rms_norm(q, w.q_norm, c.rms_norm_eps);
    k = ops::rms_norm(k, w.k_norm, c.rms_norm_eps);
  }
  q = ops::rotate_positions(q, angles);  // row i at position i of one sequence, or at the next one of sequence i
  k = ops::rotate_positions(k, angles);
  std::vector<Tensor> keys, values;
  for (KvCache* cache : sequences.caches) {
    make_room(*cache, cache->keys, size_t(layer), sequences.added, c.kv_heads, c.head_dim, k);
    make_room(*cache, cache->values, size_t(layer), sequences.added, c.kv_heads, c.head_dim, v);
    keys.push_back(cache->keys[size_t(layer)]);
    values.push_back(cache->values[size_t(layer)]);
  }
  Tensor mixed;
  if (sequences.added == 1) {
    std::vector<int64_t> lengths;
    for (const KvCache* cache : sequences.caches) lengths.push_back(cache->length);
    ops::store_positions(k, keys, lengths);
    ops::store_positions(v, values, lengths);
    for (int64_t& length : lengths) ++length;
    mixed = ops::row_attention(q, keys, values, lengths);
  } else {
    const int64_t length = sequences.caches[0]->length, all = length + sequences.added;
    keys[0].narrow(1, length, sequences.added).copy_(k.transpose(0, 1));
    values[0].narrow(1, length, sequences.added).copy_(v.transpose(0, 1));
    const auto seen = [&](const Tensor& t) { return t.narrow(1, 0, all).unsqueeze(0); };
    mixed = ops::attention(q.transpose(0, 1).unsqueeze(0), seen(keys[0]), seen(values[0])).transpose(1, 2).reshape({rows, c.heads * c.head_dim});
  }
  return ops::row_linear(rounded(rounding.o, mixed), w.o, {}, x);
}

/// All blocks of a layer: the dense or shared one over every row, and each expert over the rows that chose it.
Tensor Generator::ffn(const GeneratorLayer& w, const Tensor& x) const {
  const int64_t rows = x.size(0);
  const Tensor h = ops::rms_norm(x, w.post_norm, config_.rms_norm_eps);

  // The pairs of a row and one of its experts, by expert.
  std::vector<int64_t> begin(w.experts.size() + 1, 0), row_of, pair_of;
  Tensor weights;
  if (config_.is_moe()) {
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
  const Tensor dense_a = dense_z.defined() ? ops::swiglu(dense_z) : Tensor();
  const Tensor expert_a = expert_z.defined() ? ops::swiglu(expert_z) : Tensor();
  products.clear();
  for (const Pass& p : passes) {
    const auto [in, first] = input(p.rounding->down, p.ffn == &w.dense ? dense_a : expert_a, p.first, p.count);
    products.push_back({in, &p.ffn->down, p.out, p.count, first, p.first, 0});
  }
  ops::row_products(products);
  if (w.dense.down_bias.defined()) dense_out.add_(w.dense.down_bias);
  Tensor out = dense_out.defined() ? dense_out.add_(x) : x.clone();
  if (pairs > 0) ops::add_weighted_rows(out, expert_out, weights, row_of);  // by expert, so that each row's sum has one order
  return out;
}

}  // namespace overproof
