#pragma once
// Random tensors and tiny random models for the tests of the decoder.

#include <ATen/ATen.h>

#include <map>

#include "core/error.h"
#include "core/rng.h"
#include "formats/tensor_source.h"
#include "formats/model_config.h"

namespace overproof {

/// Standard normal values that depend on `name` alone.
inline at::Tensor random_tensor(const std::vector<int64_t>& shape, std::string_view name) {
  at::Tensor t = at::empty(shape, at::kFloat);
  Rng rng(7, name);
  float* out = t.data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i) out[i] = float(rng.normal());
  return t;
}

inline ModelConfig random_dense_config() {
  ModelConfig c;
  c.model_type = "llama";
  c.vocab_size = 97;
  c.hidden_size = 48;
  c.intermediate_size = 80;
  c.layers = 2;
  c.heads = 6;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.max_position = 512;
  c.tie_embeddings = true;
  c.bos_id = 1;
  c.eos_id = 2;
  return c;
}

inline ModelConfig random_moe_config() {
  ModelConfig c = random_dense_config();
  c.model_type = "glm4_moe";
  c.tie_embeddings = false;
  c.n_routed_experts = 5;
  c.n_shared_experts = 1;
  c.moe_intermediate_size = 16;
  c.top_k = 2;
  c.routed_scaling_factor = 2.0;
  return c;
}

/// A mixture whose weights sum to 1, with a gated shared expert and without a selection bias.
inline ModelConfig random_gated_moe_config() {
  ModelConfig c = random_moe_config();
  c.model_type = "qwen2_moe";
  c.shared_intermediate_size = 32;
  c.shared_gate = true;
  c.expert_scores = ExpertScores::softmax;
  c.norm_topk_prob = true;
  c.routed_scaling_factor = 1.0;
  return c;
}

/// Any tensor asked for by find() exists, with the values that its name gives; shapes come from what is declared.
class RandomSource : public TensorSource {
 public:
  explicit RandomSource(const ModelConfig& c) {
    const int64_t hidden = c.hidden_size, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    add("model.embed_tokens.weight", {c.vocab_size, hidden});
    add("model.norm.weight", {hidden});
    add("lm_head.weight", {c.vocab_size, hidden});
    for (int64_t i = 0; i < c.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
      add(layer + "input_layernorm.weight", {hidden});
      add(layer + "post_attention_layernorm.weight", {hidden});
      add(attention + "q_proj.weight", {q, hidden});
      add(attention + "k_proj.weight", {kv, hidden});
      add(attention + "v_proj.weight", {kv, hidden});
      add(attention + "o_proj.weight", {hidden, q});
      if (!c.is_moe()) {
        add_ffn(layer + "mlp.", hidden, c.intermediate_size);
        continue;
      }
      add_ffn(layer + (c.shared_gate ? "mlp.shared_expert." : "mlp.shared_experts."), hidden, c.shared_width());
      if (c.shared_gate) add(layer + "mlp.shared_expert_gate.weight", {1, hidden});
      for (int64_t e = 0; e < c.n_routed_experts; ++e)
        add_ffn(layer + "mlp.experts." + std::to_string(e) + ".", hidden, c.moe_intermediate_size);
      add(layer + "mlp.gate.weight", {c.n_routed_experts, hidden});
      if (c.expert_scores == ExpertScores::sigmoid) add(layer + "mlp.gate.e_score_correction_bias", {c.n_routed_experts});
    }
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  const TensorInfo* find(std::string_view name) const {
    const auto it = by_name_.find(std::string(name));
    return it == by_name_.end() ? nullptr : &infos_[it->second];
  }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    OVERPROOF_CHECK(find(name));
    const at::Tensor all = random_tensor(find(name)->shape, name);
    const at::Tensor part = all.narrow(0, first_row, rows) * (all.dim() == 2 ? 0.2 : 1.0);
    OVERPROOF_CHECK(int64_t(out.size()) == part.numel());
    std::copy_n(part.const_data_ptr<float>(), out.size(), out.data());
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape) {
    by_name_[name] = infos_.size();
    infos_.push_back({name, DType::f32, std::move(shape)});
  }
  void add_ffn(const std::string& at, int64_t hidden, int64_t width) {
    add(at + "gate_proj.weight", {width, hidden});
    add(at + "up_proj.weight", {width, hidden});
    add(at + "down_proj.weight", {hidden, width});
  }
  std::vector<TensorInfo> infos_;
  std::map<std::string, size_t> by_name_;
};

}  // namespace overproof
