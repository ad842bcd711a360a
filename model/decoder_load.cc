#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/json.h"
#include "core/parallel.h"
#include "formats/canonical_tensors.h"
#include "formats/finite_values.h"
#include "formats/model_check.h"
#include "model/decoder_parts.h"
#include "model/decoder_weights.h"
#include "model/host_values.h"

namespace overproof {
namespace {

using at::Tensor;

LayerWeights empty_layer(const ModelConfig& c, int64_t layer, const Placement& placement) {
  const auto weight = [&](std::initializer_list<int64_t> shape) { return at::empty(shape, placement.options()); };
  const auto router = [&](std::initializer_list<int64_t> shape) {
    return at::empty(shape, placement.options().dtype(wide_type(placement.dtype)));
  };
  const int64_t hidden = c.hidden_size, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  LayerWeights w;
  if (c.places != NormPlaces::post) w.input_norm = weight({hidden});
  if (c.places == NormPlaces::pre || c.places == NormPlaces::sandwich) w.post_norm = weight({hidden});
  if (c.places == NormPlaces::post || c.places == NormPlaces::sandwich) w.attention_out_norm = weight({hidden}), w.ffn_out_norm = weight({hidden});
  if (c.norm_bias) {
    w.input_norm_bias = weight({hidden});
    if (w.post_norm.defined()) w.post_norm_bias = weight({hidden});
  }
  if (c.is_latent()) {
    if (c.q_rank > 0) w.q_a = weight({c.q_rank, hidden}), w.q_a_norm = weight({c.q_rank});
    w.q = weight({q, c.q_rank > 0 ? c.q_rank : hidden});
    w.kv_a = weight({c.kv_rank + c.rope_dim, hidden});
    w.kv_a_norm = weight({c.kv_rank});
    w.kv_b = weight({c.heads * (c.nope_dim + c.value_dim), c.kv_rank});
  } else {
    w.q = weight({q, hidden});
    w.k = weight({kv, hidden});
    w.v = weight({kv, hidden});
  }
  w.o = weight({hidden, c.heads * c.value_width()});
  if (c.attention_bias) {
    w.q_bias = weight({q});
    w.k_bias = weight({kv});
    w.v_bias = weight({kv});
  }
  if (c.output_bias) w.o_bias = weight({hidden});
  if (c.qk_norm) {
    const auto heads_norm = [&](int64_t heads) {
      return c.head_norm == HeadNorm::head ? weight({c.head_dim}) : c.head_norm == HeadNorm::wide ? weight({heads * c.head_dim}) : weight({heads, c.head_dim});
    };
    w.q_norm = heads_norm(c.heads);
    w.k_norm = heads_norm(c.kv_heads);
  }
  const bool moe = c.shape_of(layer).experts;
  const int64_t dense = moe ? c.shared_width() : c.intermediate_size;
  if (dense > 0) {
    w.gate_up = weight({2 * dense, hidden});
    w.down = weight({hidden, dense});
  }
  if (c.mlp_bias && !moe) {
    w.gate_up_bias = weight({2 * dense});
    w.down_bias = weight({hidden});
  }
  if (moe) {
    w.expert_gate_up = weight({c.n_routed_experts, 2 * c.moe_intermediate_size, hidden});
    w.expert_down = weight({c.n_routed_experts, hidden, c.moe_intermediate_size});
    w.router = router({c.n_routed_experts, hidden});
    if (c.expert_scores == ExpertScores::sigmoid) w.router_bias = router({c.n_routed_experts});
    if (c.shared_gate) w.shared_gate = weight({1, hidden});
  }
  return w;
}

/// Reads t.target, which is f32 on the CPU, in pieces of about a megabyte, so that one large embedding does not leave the other
/// cores without work.
void read_on_cpu(const std::vector<StoredTensor>& stored, const TensorSource& tensors, const fs::path& where) {
  struct Piece {
    const StoredTensor* tensor;
    int64_t first, rows;
  };
  constexpr int64_t kElements = 1 << 18;
  std::vector<Piece> pieces;
  for (const StoredTensor& t : stored) {
    const int64_t rows = t.target.size(0), step = std::max<int64_t>(1, kElements / (t.target.numel() / rows));
    for (int64_t r = 0; r < rows; r += step) pieces.push_back({&t, r, std::min(step, rows - r)});
  }
  parallel_for(int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [tensor, first, rows] = pieces[size_t(i)];
      const int64_t width = tensor->target.numel() / tensor->target.size(0);
      const auto values = mutable_host_values<float>(tensor->target).subspan(size_t(first * width), size_t(rows * width));
      tensors.read_f32(tensor->name, first, rows, values);
      require_finite(values, tensor->name, first, width, where);  // else every stage would have to watch what it computes
    }
  });
}

/// Reads the targets, wherever they are.
void read_stored(std::vector<StoredTensor> stored, const TensorSource& tensors, const fs::path& where) {
  std::vector<StoredTensor> here;
  for (StoredTensor& t : stored) {
    if (placement_of(t.target) == Placement{}) {
      here.push_back(std::move(t));
      continue;
    }
    const at::Tensor staging = at::empty(t.target.sizes(), Placement{}.options());  // one tensor at a time on its way
    read_on_cpu({{t.name, staging, t.keep_f32}}, tensors, where);
    t.target.copy_(staging);
  }
  read_on_cpu(here, tensors, where);
}

/// The tensors of a checkpoint that has a layer's weights.
void add_stored_layer(std::vector<StoredTensor>& all, const LayerWeights& w, int64_t i) {
  const auto add = [&](std::string name, const Tensor& tensor, bool keep_f32 = false) {
    if (tensor.defined()) all.push_back({std::move(name), tensor.detach(), keep_f32});
  };
  const auto add_ffn = [&](const std::string& at, const Tensor& gate_up, const Tensor& down) {
    if (!gate_up.defined()) return;
    const int64_t width = gate_up.size(0) / 2;
    add(at + "gate_proj.weight", gate_up.narrow(0, 0, width));
    add(at + "up_proj.weight", gate_up.narrow(0, width, width));
    add(at + "down_proj.weight", down);
  };
  const std::string layer = fmt::format("model.layers.{}.", i), attention = layer + "self_attn.";
  add(layer + "input_layernorm.weight", w.input_norm);
  add(layer + "input_layernorm.bias", w.input_norm_bias);
  add(attention + "q_a_proj.weight", w.q_a);
  add(attention + "q_a_layernorm.weight", w.q_a_norm);
  add(attention + (w.q_a.defined() ? "q_b_proj.weight" : "q_proj.weight"), w.q);
  add(attention + "q_proj.bias", w.q_bias);
  add(attention + "k_proj.weight", w.k);
  add(attention + "k_proj.bias", w.k_bias);
  add(attention + "v_proj.weight", w.v);
  add(attention + "v_proj.bias", w.v_bias);
  add(attention + "kv_a_proj_with_mqa.weight", w.kv_a);
  add(attention + "kv_a_layernorm.weight", w.kv_a_norm);
  add(attention + "kv_b_proj.weight", w.kv_b);
  add(attention + "q_norm.weight", w.q_norm);
  add(attention + "k_norm.weight", w.k_norm);
  add(attention + "o_proj.weight", w.o);
  add(attention + "o_proj.bias", w.o_bias);
  add(layer + "attention_out_norm.weight", w.attention_out_norm);
  add(layer + "post_attention_layernorm.weight", w.post_norm);
  add(layer + "post_attention_layernorm.bias", w.post_norm_bias);
  add(layer + "ffn_out_norm.weight", w.ffn_out_norm);
  if (!w.router.defined()) {
    add_ffn(layer + "mlp.", w.gate_up, w.down);
    if (w.gate_up_bias.defined()) {
      const int64_t width = w.gate_up_bias.size(0) / 2;
      add(layer + "mlp.gate_proj.bias", w.gate_up_bias.narrow(0, 0, width));
      add(layer + "mlp.up_proj.bias", w.gate_up_bias.narrow(0, width, width));
      add(layer + "mlp.down_proj.bias", w.down_bias);
    }
    return;
  }
  add_ffn(layer + std::string(shared_experts_module(w.shared_gate.defined())), w.gate_up, w.down);
  add(layer + "mlp.shared_expert_gate.weight", w.shared_gate);
  for (int64_t e = 0; e < w.router.size(0); ++e)
    add_ffn(fmt::format("{}mlp.experts.{}.", layer, e), w.expert_gate_up.select(0, e), w.expert_down.select(0, e));
  add(layer + "mlp.gate.weight", w.router, true);
  add(layer + "mlp.gate.e_score_correction_bias", w.router_bias, true);
}

}  // namespace

DecoderWeights empty_weights(const ModelConfig& c, const Placement& placement) {
  DecoderWeights weights;
  weights.embedding = at::empty({c.vocab_size, c.hidden_size}, placement.options());
  weights.final_norm = at::empty({c.hidden_size}, placement.options());
  if (c.norm_bias) weights.final_norm_bias = at::empty({c.hidden_size}, placement.options());
  if (!c.tie_embeddings) weights.head = at::empty({c.vocab_size, c.hidden_size}, placement.options());
  for (int64_t i = 0; i < c.layers; ++i) weights.layers.push_back(empty_layer(c, i, placement));
  return weights;
}

LayerWeights load_layer(const ModelConfig& c, int64_t layer, const TensorSource& tensors, const fs::path& where) {
  LayerWeights weights = empty_layer(c, layer, {});
  read_stored(stored_layer(weights, layer), tensors, where);
  return weights;
}

DecoderWeights load_weights(const ModelConfig& c, const TensorSource& tensors, const Placement& placement,
                            const fs::path& where) {
  check_tensors(c.to_json(), tensors, where);
  const auto canonical = canonical_tensors(c, tensors);
  DecoderWeights weights = empty_weights(c, placement);
  read_stored(stored_tensors(weights), canonical ? *canonical : tensors, where);
  return weights;
}

std::vector<StoredTensor> stored_layer(const LayerWeights& weights, int64_t layer) {
  std::vector<StoredTensor> all;
  add_stored_layer(all, weights, layer);
  return all;
}

std::vector<StoredTensor> stored_tensors(const DecoderWeights& weights) {
  std::vector<StoredTensor> all;
  const auto add = [&](std::string name, const Tensor& tensor) {
    if (tensor.defined()) all.push_back({std::move(name), tensor.detach(), false});
  };
  add("model.embed_tokens.weight", weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) add_stored_layer(all, weights.layers[i], int64_t(i));
  add("model.norm.weight", weights.final_norm);
  add("model.norm.bias", weights.final_norm_bias);
  add("lm_head.weight", weights.head);
  return all;
}

}  // namespace overproof
