#pragma once
// The shape of a decoder, from config.json: features that are independent of each other, instead of a class for each architecture.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "formats/layer_features.h"
#include "formats/tensor_source.h"

namespace overproof {

/// In what one layer differs from the others.
struct LayerShape {
  bool windowed = false;  ///< sees ModelConfig::window positions, itself included
  bool rope = true;
  bool experts = false;
};

struct ModelConfig {
  std::string model_type;  ///< a row of formats/model_kinds.h
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, max_position = 0;
  double rms_norm_eps = 1e-5;  ///< of LayerNorms too
  RopeShape rope;
  std::optional<RopeShape> window_rope;  ///< of the layers with a window, where theirs is another (Gemma 3)
  bool interleaved_rope = false;         ///< in the checkpoint, pairs are next to each other instead of half a head apart
  bool tie_embeddings = false;
  bool attention_bias = false;  ///< biases of q, k, v (Qwen2)
  bool output_bias = false;     ///< of o
  bool mlp_bias = false;        ///< biases of gate_proj, up_proj and down_proj (a llama's config.mlp_bias)
  bool qk_norm = false;         ///< norms of q and k, of the kind head_norm
  int64_t bos_id = -1, eos_id = -1;

  NormKind norm = NormKind::rms;
  bool norm_bias = false;
  NormPlaces places = NormPlaces::pre;
  HeadNorm head_norm = HeadNorm::head;
  GateActivation activation = GateActivation::silu;
  double embedding_scale = 1.0, residual_scale = 1.0, logit_scale = 1.0;
  double attention_scale = 0.0;                 ///< of the scores; 0: 1 / sqrt(width of a query)
  double attention_cap = 0.0, logit_cap = 0.0;  ///< cap x tanh(z / cap); 0: none
  int64_t window = 0;                           ///< of the layers that have one

  /// Multi-head latent attention (DeepSeek-V2): keys and values pass a layer of width kv_rank, queries one of q_rank (0: none). A query has
  /// nope_dim + rope_dim = head_dim values, a value value_dim.
  int64_t q_rank = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0, value_dim = 0;

  // Mixture of experts; n_routed_experts == 0 means a dense FFN.
  int64_t n_routed_experts = 0, n_shared_experts = 0, moe_intermediate_size = 0, top_k = 0;
  double routed_scaling_factor = 1.0;
  bool norm_topk_prob = false;
  ExpertScores expert_scores = ExpertScores::sigmoid;
  int64_t expert_groups = 1, used_groups = 1;  ///< experts are chosen in the best `used_groups` of `expert_groups`
  GroupScore group_score = GroupScore::best_two;
  int64_t shared_intermediate_size = 0;  ///< of all shared experts together, where it is no multiple of moe_intermediate_size
  bool shared_gate = false;              ///< a sigmoid gate on the shared expert (Qwen2-MoE)

  std::vector<LayerShape> shapes;  ///< one a layer; empty: all alike

  bool is_moe() const { return n_routed_experts > 0; }
  bool is_latent() const { return kv_rank > 0; }
  LayerShape shape_of(int64_t layer) const { return shapes.empty() ? LayerShape{.experts = is_moe()} : shapes[size_t(layer)]; }
  bool has_windows() const;
  /// Tokens that the model can read at once: max_position, which RoPE of the type dynamic exceeds by its factor. 0: not known.
  int64_t context() const { return rope.type == "dynamic" ? int64_t(double(max_position) * rope.factor) : max_position; }
  int64_t shared_width() const {
    return shared_intermediate_size > 0 ? shared_intermediate_size : n_shared_experts * moe_intermediate_size;
  }
  /// Width of a value of a head; other than head_dim in latent attention only.
  int64_t value_width() const { return is_latent() ? value_dim : head_dim; }
  const RopeShape& rope_of(int64_t layer) const { return window_rope && shape_of(layer).windowed ? *window_rope : rope; }

  int64_t parameters() const;         ///< all weights, the head counted once more when untied
  int64_t active_parameters() const;  ///< touched by one token: top_k + shared experts, everything else
  /// Fraction of FFN neurons a token uses, of the layers with experts: (top_k x width + shared) / (all experts x width + shared); 1 for a dense
  /// FFN.
  double ffn_activation() const;

  /// Why a model of this shape can be run and not trained, pruned by gradients or written by model/; "" where it can.
  std::string why_not_trained() const;
  /// Why it cannot be carved into experts of any profile (formats/student_profile.h, which has what cannot be upcycled); "" where it can.
  std::string why_not_carved() const;

  /// From config.json; throws FormatError naming `file` and what is wrong or not supported (chunked attention, other activations, ...).
  static ModelConfig from_json(const Json& config, const std::filesystem::path& file);
  /// As transformers reads it: LlamaForCausalLM etc. for what can be trained, Glm4MoeForCausalLM or Qwen2MoeForCausalLM with every default written out. Of other
  /// shapes the config.json that they were read from.
  Json to_json() const;

 private:
  std::shared_ptr<const Json> source_;  ///< of shapes that cannot be trained
};

/// Records in a config.json in which type the weights are stored (f32, f16 or bf16), under the name that transformers 4.56 and later
/// write, "dtype"; they still read the older "torch_dtype", which is removed.
void set_stored_dtype(Json& config, DType dtype);

}  // namespace overproof
