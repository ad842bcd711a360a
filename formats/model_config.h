#pragma once
// The shape of a decoder, from config.json: dense teachers and the glm4_moe student.

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/json_fwd.h"
#include "formats/tensor_source.h"

namespace overproof {

/// RoPE frequencies of Llama 3.1: wavelengths beyond the original context are stretched by `factor`, with a smooth
/// transition between the two (rope_type "llama3" in config.json).
struct RopeScaling {
  double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  int64_t original_max_position = 8192;
};

struct ModelConfig {
  std::string model_type;  ///< "llama", "mistral", "qwen2", "qwen3", "glm4_moe"
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, max_position = 0;
  double rms_norm_eps = 1e-5, rope_theta = 10000.0;
  bool has_rope_scaling = false;
  RopeScaling rope_scaling;
  bool tie_embeddings = false;
  bool attention_bias = false;  ///< biases of q, k, v (Qwen2)
  bool mlp_bias = false;        ///< biases of gate_proj, up_proj and down_proj (a llama's config.mlp_bias)
  bool qk_norm = false;         ///< RMSNorm over head_dim of q and k (Qwen3)
  int64_t bos_id = -1, eos_id = -1;

  // Mixture of experts (glm4_moe); n_routed_experts == 0 means a dense FFN.
  int64_t n_routed_experts = 0, n_shared_experts = 0, moe_intermediate_size = 0, top_k = 0;
  double routed_scaling_factor = 1.0;
  bool norm_topk_prob = false;

  bool is_moe() const { return n_routed_experts > 0; }
  int64_t parameters() const;         ///< all weights, the head counted once more when untied
  int64_t active_parameters() const;  ///< touched by one token: top_k + shared experts, everything else
  /// Fraction of FFN neurons a token uses: (top_k + shared) x width / (all experts x width); 1 for a dense FFN.
  double ffn_activation() const;

  /// From config.json; throws FormatError naming `file` and what is wrong or not supported (sliding windows in use, other
  /// activations, ...).
  static ModelConfig from_json(const Json& config, const std::filesystem::path& file);
  /// As transformers reads it: LlamaForCausalLM etc. for dense models, Glm4MoeForCausalLM with every default written out.
  Json to_json() const;
};

/// Records in a config.json in which type the weights are stored (f32, f16 or bf16), under the name that transformers 4.56 and later
/// write, "dtype"; they still read the older "torch_dtype", which is removed.
void set_stored_dtype(Json& config, DType dtype);

}  // namespace overproof
