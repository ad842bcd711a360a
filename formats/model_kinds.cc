#include "formats/model_kinds.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace overproof {
namespace {

using K = ModelKind;
using E = TensorEntry;
using R = TensorRole;

using C = ModelKind::Computed;
using G = ModelKind::Given;

constexpr ModelKind kKinds[] = {
    {.id = K::llama,
     .model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .arch = "llama",
     .kv_heads_by_heads = true,
     .interleaved_rope = true,
     .computed = C{.output_bias = true, .mlp_bias = true}},
    {.id = K::mistral,
     .model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .arch = "llama",
     .sliding_window = 4096,
     .interleaved_rope = true,
     .computed = C{.kv_heads = 8}},
    {.id = K::mixtral,
     .model_type = "mixtral",
     .architecture = "MixtralForCausalLM",
     .arch = "llama",
     .experts = K::Experts::by_number,
     .mixture = K::Mixture::plain,
     .experts_key = "num_local_experts",
     .sliding_window = 0,
     .rope_theta = 1e6,
     .interleaved_rope = true},
    {.id = K::qwen2,
     .model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .arch = "qwen2",
     .square_gguf_attention = true,
     .computed = C{.kv_heads = 32, .qkv_bias = G::always}},
    {.id = K::qwen3,
     .model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .arch = "qwen3",
     .own_head_dim = true,
     .computed = C{.kv_heads = 32, .head_dim = 128, .output_bias = true, .qk_norm = G::always}},
    {.id = K::qwen2_moe,
     .model_type = "qwen2_moe",
     .architecture = "Qwen2MoeForCausalLM",
     .arch = "qwen2moe",
     .experts = K::Experts::by_projection,
     .mixture = K::Mixture::qwen,
     .experts_key = "num_experts",
     .gated_shared_expert = true,
     .square_gguf_attention = true,
     .head_in_gguf = true},
    {.id = K::qwen3_moe,
     .model_type = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .arch = "qwen3moe",
     .experts = K::Experts::by_projection,
     .mixture = K::Mixture::qwen,
     .experts_key = "num_experts",
     .normalised_gguf_weights = true,
     .own_head_dim = true},
    {.id = K::glm4_moe,
     .model_type = "glm4_moe",
     .architecture = "Glm4MoeForCausalLM",
     .arch = "glm4moe",
     .experts = K::Experts::by_projection,
     .mixture = K::Mixture::leading_dense,
     .experts_key = "n_routed_experts",
     .shared_experts = 1,
     .own_head_dim = true,
     .rotary_part = 0.5,
     .computed = C{.kv_heads = 8, .rms_norm_eps = 1e-5, .qkv_bias = G::by_config, .qk_norm = G::by_config}},
    {.id = K::deepseek_v3,
     .model_type = "deepseek_v3",
     .architecture = "DeepseekV3ForCausalLM",
     .arch = "deepseek2",
     .experts = K::Experts::by_projection,
     .mixture = K::Mixture::leading_dense,
     .experts_key = "n_routed_experts",
     .softmax_gguf_scores = true,
     .latent_attention = true},
    {.id = K::granitemoe,
     .model_type = "granitemoe",
     .architecture = "GraniteMoeForCausalLM",
     .arch = "granitemoe",
     .experts = K::Experts::stay_fused,
     .mixture = K::Mixture::plain,
     .experts_key = "num_local_experts",
     .multipliers = true,
     .kv_heads_by_heads = true,
     .interleaved_rope = true},
};

constexpr uint32_t kAll = 0xffffffffu;
constexpr uint32_t kPlainAttention = kAll & ~K::deepseek_v3;
constexpr uint32_t kDense = K::llama | K::mistral | K::qwen2 | K::qwen3;
constexpr uint32_t kLeadDense = K::glm4_moe | K::deepseek_v3;  // dense layers before those with experts
constexpr uint32_t kQwenMoe = K::qwen2_moe | K::qwen3_moe;
constexpr uint32_t kMlpGate = kQwenMoe | kLeadDense;

constexpr TensorEntry kModel[] = {
    {"model.embed_tokens.weight", R::embedding, kAll, "token_embd.weight"},
    {"model.norm.weight", R::norm, kAll, "output_norm.weight"},
    {"lm_head.weight", R::head, kAll, "output.weight", E::optional},
};

/// In the order in which a GGUF file has them.
constexpr TensorEntry kLayer[] = {
    {"input_layernorm.weight", R::norm, kAll, "attn_norm.weight"},
    {"self_attn.q_proj.weight", R::linear, kPlainAttention, "attn_q.weight"},
    {"self_attn.q_proj.weight", R::linear, K::deepseek_v3, "attn_q.weight", E::optional},
    {"self_attn.k_proj.weight", R::linear, kPlainAttention, "attn_k.weight"},
    {"self_attn.v_proj.weight", R::linear, kPlainAttention, "attn_v.weight"},
    {"self_attn.q_proj.bias", R::other, kPlainAttention, "attn_q.bias", E::optional},
    {"self_attn.k_proj.bias", R::other, kPlainAttention, "attn_k.bias", E::optional},
    {"self_attn.v_proj.bias", R::other, kPlainAttention, "attn_v.bias", E::optional},
    {"self_attn.q_norm.weight", R::norm, K::qwen3 | K::qwen3_moe, "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", R::norm, K::qwen3 | K::qwen3_moe, "attn_k_norm.weight"},
    {"self_attn.q_norm.weight", R::norm, K::glm4_moe, "attn_q_norm.weight", E::optional},
    {"self_attn.k_norm.weight", R::norm, K::glm4_moe, "attn_k_norm.weight", E::optional},
    // Multi-head latent attention: queries, keys and values pass a narrow layer; q_proj when config.q_lora_rank is null.
    {"self_attn.q_a_proj.weight", R::linear, K::deepseek_v3, "attn_q_a.weight", E::optional},
    {"self_attn.q_a_layernorm.weight", R::norm, K::deepseek_v3, "attn_q_a_norm.weight", E::optional},
    {"self_attn.q_b_proj.weight", R::linear, K::deepseek_v3, "attn_q_b.weight", E::optional},
    {"self_attn.kv_a_proj_with_mqa.weight", R::linear, K::deepseek_v3, "attn_kv_a_mqa.weight"},
    {"self_attn.kv_a_layernorm.weight", R::norm, K::deepseek_v3, "attn_kv_a_norm.weight"},
    {"self_attn.kv_b_proj.weight", R::linear, K::deepseek_v3},  // GGUF has it in two parts
    {"self_attn.o_proj.weight", R::linear, kAll, "attn_output.weight"},
    {"self_attn.o_proj.bias", R::other, K::llama | K::mistral | K::mixtral | K::granitemoe, "attn_output.bias", E::optional},
    {"post_attention_layernorm.weight", R::norm, kAll & ~K::glm4_moe, "ffn_norm.weight"},
    {"post_attention_layernorm.weight", R::norm, K::glm4_moe, "post_attention_norm.weight"},
    {"mlp.gate_proj.weight", R::linear, kDense | kLeadDense, "ffn_gate.weight", E::dense},
    {"mlp.up_proj.weight", R::linear, kDense | kLeadDense, "ffn_up.weight", E::dense},
    {"mlp.down_proj.weight", R::linear, kDense | kLeadDense, "ffn_down.weight", E::dense},
    {"mlp.gate_proj.weight", R::linear, kQwenMoe, {}, E::dense},  // config.mlp_only_layers
    {"mlp.up_proj.weight", R::linear, kQwenMoe, {}, E::dense},
    {"mlp.down_proj.weight", R::linear, kQwenMoe, {}, E::dense},
    {"mlp.gate_proj.bias", R::other, K::llama | K::mistral, "ffn_gate.bias", E::optional},
    {"mlp.up_proj.bias", R::other, K::llama | K::mistral, "ffn_up.bias", E::optional},
    {"mlp.down_proj.bias", R::other, K::llama | K::mistral, "ffn_down.bias", E::optional},
    {"mlp.gate.weight", R::router, kMlpGate, "ffn_gate_inp.weight", E::moe},
    // Mixtral's block is called mlp in memory, and so it is in files with fused experts.
    {"block_sparse_moe.gate.weight", R::router, K::mixtral, "ffn_gate_inp.weight", E::moe},
    {"mlp.gate.weight", R::router, K::mixtral, {}, E::optional},
    {"block_sparse_moe.router.layer.weight", R::router, K::granitemoe, "ffn_gate_inp.weight", E::moe},
    {"block_sparse_moe.router.weight", R::router, K::granitemoe, {}, E::optional},  // in memory
    {"mlp.gate.e_score_correction_bias", R::router_bias, K::glm4_moe, "exp_probs_b.bias", E::moe},
    {"mlp.gate.e_score_correction_bias", R::router_bias, K::deepseek_v3, "exp_probs_b.bias", E::moe_optional},
    {"mlp.experts.#.gate_proj.weight", R::expert_linear, kMlpGate, {}, E::moe},
    {"mlp.experts.#.up_proj.weight", R::expert_linear, kMlpGate, {}, E::moe},
    {"mlp.experts.#.down_proj.weight", R::expert_linear, kMlpGate, {}, E::moe},
    {"mlp.experts.gate_up_proj", R::fused_experts, kMlpGate | K::mixtral, {}, E::optional},
    {"mlp.experts.down_proj", R::fused_experts, kMlpGate | K::mixtral, {}, E::optional},
    {"block_sparse_moe.experts.#.w1.weight", R::expert_linear, K::mixtral, {}, E::moe},
    {"block_sparse_moe.experts.#.w2.weight", R::expert_linear, K::mixtral, {}, E::moe},
    {"block_sparse_moe.experts.#.w3.weight", R::expert_linear, K::mixtral, {}, E::moe},
    {"block_sparse_moe.input_linear.weight", R::fused_experts, K::granitemoe, {}, E::moe},
    {"block_sparse_moe.output_linear.weight", R::fused_experts, K::granitemoe, {}, E::moe},
    {"block_sparse_moe.experts.gate_up_proj", R::fused_experts, K::granitemoe, {}, E::optional},  // in memory
    {"block_sparse_moe.experts.down_proj", R::fused_experts, K::granitemoe, {}, E::optional},
    {"mlp.shared_experts.gate_proj.weight", R::linear, kLeadDense, "ffn_gate_shexp.weight", E::moe_optional},
    {"mlp.shared_experts.up_proj.weight", R::linear, kLeadDense, "ffn_up_shexp.weight", E::moe_optional},
    {"mlp.shared_experts.down_proj.weight", R::linear, kLeadDense, "ffn_down_shexp.weight", E::moe_optional},
    {"mlp.shared_expert_gate.weight", R::router, K::qwen2_moe, "ffn_gate_inp_shexp.weight", E::moe},
    {"mlp.shared_expert.gate_proj.weight", R::linear, K::qwen2_moe, "ffn_gate_shexp.weight", E::moe},
    {"mlp.shared_expert.up_proj.weight", R::linear, K::qwen2_moe, "ffn_up_shexp.weight", E::moe},
    {"mlp.shared_expert.down_proj.weight", R::linear, K::qwen2_moe, "ffn_down_shexp.weight", E::moe},
    {"eh_proj.weight", R::other, kLeadDense, "nextn.eh_proj.weight", E::nextn},
    {"enorm.weight", R::other, kLeadDense, "nextn.enorm.weight", E::nextn},
    {"hnorm.weight", R::other, kLeadDense, "nextn.hnorm.weight", E::nextn},
    {"embed_tokens.weight", R::other, kLeadDense, "nextn.embed_tokens.weight", E::nextn},
    {"shared_head.head.weight", R::other, kLeadDense, "nextn.shared_head_head.weight", E::nextn},
    {"shared_head.norm.weight", R::other, kLeadDense, "nextn.shared_head_norm.weight", E::nextn},
};

}  // namespace

std::string_view role_name(TensorRole role) {
  static constexpr std::string_view kNames[] = {"linear",      "expert_linear", "fused_experts", "router",
                                                "router_bias", "norm",          "embedding",     "head",
                                                "mtp",         "quantization",  "other"};
  return kNames[size_t(role)];
}

std::span<const ModelKind> model_kinds() { return kKinds; }
std::span<const TensorEntry> model_tensors() { return kModel; }
std::span<const TensorEntry> layer_tensors() { return kLayer; }

const ModelKind* find_model_kind(std::string_view model_type) {
  const auto* kind = std::ranges::find(kKinds, model_type, &ModelKind::model_type);
  return kind == std::end(kKinds) ? nullptr : kind;
}

std::string expert_tensor_name(const ModelKind& kind, int64_t expert, TensorName::Part part) {
  using Part = TensorName::Part;
  OVERPROOF_CHECK(part == Part::gate || part == Part::up || part == Part::down);
  if (kind.experts == K::Experts::by_number)
    return fmt::format("block_sparse_moe.experts.{}.w{}.weight", expert, part == Part::gate ? 1 : part == Part::up ? 3 : 2);
  return fmt::format("mlp.experts.{}.{}_proj.weight", expert, part == Part::gate ? "gate" : part == Part::up ? "up" : "down");
}

}  // namespace overproof
