#pragma once
// The architectures that are known, one row each, and their tensors by name in transformers and in GGUF: the one table that
// roles (formats/architecture), configurations (formats/model_config) and both directions of GGUF read.
// Sources: transformers 5.23, models/<type>/modeling_<type>.py, configuration_<type>.py and conversion_mapping.py;
// gguf-py/gguf/tensor_mapping.py and src/models/*.cpp of llama.cpp (which loader takes which tensor).

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/layer_features.h"
#include "formats/tensor_name.h"

namespace overproof {

enum class TensorRole {
  linear,         ///< [out, in] weight of a projection that every token passes
  expert_linear,  ///< the same, of one expert among several
  fused_experts,  ///< [experts, out, in]: stays in one tensor, as loaders need it
  router,         ///< weight that selects the experts of a token, or scales the output of a shared one
  router_bias,    ///< added to the router's scores for the selection only
  norm,
  embedding,
  head,
  mtp,           ///< any tensor of the layers that predict further tokens: model.layers.N with N >= num_hidden_layers
  quantization,  ///< scale or zero point of a module's activations
  other          ///< biases and everything else
};
std::string_view role_name(TensorRole role);  ///< "expert_linear"

struct ModelKind {
  enum Id : uint32_t {  // bits, so that a tensor lists the kinds that have it
    llama = 1 << 0,
    mistral = 1 << 1,
    mixtral = 1 << 2,
    qwen2 = 1 << 3,
    qwen3 = 1 << 4,
    qwen2_moe = 1 << 5,
    qwen3_moe = 1 << 6,
    glm4_moe = 1 << 7,
    deepseek_v3 = 1 << 8,
    granitemoe = 1 << 9,
    phi3 = 1 << 10,
    granite = 1 << 11,
    smollm3 = 1 << 12,
    olmo2 = 1 << 13,
    gemma = 1 << 14,
    gemma2 = 1 << 15,
    gemma3_text = 1 << 16,
    stablelm = 1 << 17,
    cohere = 1 << 18,
    deepseek_v2 = 1 << 19
  };
  /// How an expert's matrices are named where each is a tensor: gate_proj, or w1. stay_fused: loaders need them in one tensor.
  enum class Experts { none, by_projection, by_number, stay_fused };
  /// The keys of config.json about experts, and how tokens are sent to them. plain: all layers alike, of the width of a dense FFN;
  /// qwen: a width of their own, and maybe layers without; leading_dense: after some dense layers, with shared experts, scores by a
  /// sigmoid, groups, and layers that predict further tokens.
  enum class Mixture { none, plain, qwen, leading_dense };
  enum class Given { never, always, by_config };
  /// What model/ computes, where config.json does not state it: transformers' class has it so, or assumes it when a key is left out. A
  /// checkpoint may rely on both.
  struct Computed {
    int64_t kv_heads = 0;  ///< 0: as many as heads
    double rms_norm_eps = 1e-6;
    std::string_view eps_key = "rms_norm_eps";
    int64_t head_dim = 0;  ///< 0: hidden_size / heads
    Given qkv_bias = Given::never;
    std::string_view bias_key = "attention_bias";
    bool bias_left_out = false;  ///< what `bias_key` means where it is left out
    bool output_bias = false;    ///< the key also means one of the output projection
    bool mlp_bias = false;       ///< config.mlp_bias exists
    Given qk_norm = Given::never;
    HeadNorm head_norm = HeadNorm::head;
    std::string_view qk_norm_key = "use_qk_norm";
    NormKind norm = NormKind::rms;
    bool norm_bias = false;
    NormPlaces places = NormPlaces::pre;
    std::string_view activation_key = "hidden_act";
    GateActivation activation = GateActivation::silu;  ///< where the key is left out
    WindowRule windows = WindowRule::none;
    int64_t pattern = 0;            ///< WindowRule::pattern: every which layer sees everything
    bool tied = false;              ///< where tie_word_embeddings is left out
    bool partial_rope = false;      ///< partial_rotary_factor exists
    bool pairs_in_file = false;     ///< RoPE turns neighbouring values of a head
    bool scaled_embedding = false;  ///< by the root of hidden_size
    int64_t original_positions =
        0;  ///< longrope: where config.json leaves original_max_position_embeddings out; 0: as in other models
    ExpertScores scores = ExpertScores::softmax;
    bool normalised_weights = false;  ///< of the chosen experts, always
    bool trained = false;             ///< can be a student, be carved or smoothed
  };

  Id id;
  std::string_view model_type;    ///< of config.json
  std::string_view architecture;  ///< transformers' class
  std::string_view arch = {};  ///< GGUF's general.architecture, and the prefix of its keys; "": GGUF is neither read nor written
  Experts experts = Experts::none;
  Mixture mixture = Mixture::none;
  std::string_view experts_key = {};     ///< config.json's key of their number
  int64_t shared_experts = -1;           ///< where config.json leaves n_shared_experts out; -1: it may not
  bool gated_shared_expert = false;      ///< one shared expert of a width of its own, whose output a gate scales
  bool normalised_gguf_weights = false;  ///< Mixture::qwen: llama.cpp lets the weights of the chosen experts sum to 1
  bool softmax_gguf_scores = false;      ///< of the router, for llama.cpp, where the file has no expert_gating_func
  bool latent_attention = false;         ///< queries, keys and values pass a narrow layer
  bool multipliers = false;              ///< config.json scales the embedding, attention, residuals and logits
  bool own_head_dim = false;             ///< head_dim is no quotient of the hidden size where config.json leaves it out
  bool kv_heads_by_heads = false;        ///< as many key heads as heads where config.json leaves their number out
  bool square_gguf_attention = false;    ///< llama.cpp takes square projections only
  bool head_in_gguf = false;             ///< llama.cpp needs a head also where it is the embedding
  /// The sliding window that config.json's key alone sets, and its width where the key is left out (0: none). Without a value the
  /// key counts only where use_sliding_window is true.
  std::optional<int64_t> sliding_window = {};
  double rope_theta = 10000.0;
  double rotary_part = 1.0;  ///< of each head, where config.json leaves it out; 1: other parts are not known
  /// GGUF: RoPE turns neighbouring rows of a head, where transformers turns rows half a head apart: q and k are stored with
  /// their halves interleaved.
  bool interleaved_rope = false;
  Computed computed = {};

  bool is(uint32_t ids) const { return (id & ids) != 0; }
  bool has_experts() const { return experts != Experts::none; }
};

std::span<const ModelKind> model_kinds();
/// The key under which a config.json gives the number of experts; has(key): whether it has that key. transformers 5 writes Qwen's as Mixtral's.
template <class Has>
std::string_view experts_key_of(const ModelKind& kind, const Has& has) {
  constexpr std::string_view kOther = "num_local_experts";
  return kind.mixture == ModelKind::Mixture::qwen && has(kOther) ? kOther : kind.experts_key;
}
/// By config.json's model_type; nullptr when it is not known.
const ModelKind* find_model_kind(std::string_view model_type);

/// A tensor of the whole model, or of a layer: its name in transformers behind "model.layers.N.", '#' for an expert's number.
struct TensorEntry {
  /// GGUF: in which layers the tensor is; nextn: of those that predict further tokens.
  enum Need { always, optional, dense, moe, moe_optional, nextn };
  std::string_view hf;
  TensorRole role;
  uint32_t kinds;              ///< those that have it
  std::string_view gguf = {};  ///< behind "blk.N."; "" where it has no place in GGUF under one name
  Need need = always;
};
std::span<const TensorEntry> model_tensors();
std::span<const TensorEntry> layer_tensors();

/// What follows "model.layers.N." of an expert's matrix: "mlp.experts.3.gate_proj.weight", "block_sparse_moe.experts.3.w1.weight".
std::string expert_tensor_name(const ModelKind& kind, int64_t expert, TensorName::Part part);

}  // namespace overproof
