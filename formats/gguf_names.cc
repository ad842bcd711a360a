#include "formats/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace overproof {
namespace {

using F = GgufFamily;
using N = GgufName;

constexpr GgufFamily kFamilies[] = {
    {F::llama, "llama", "LlamaForCausalLM", "llama", false, true},
    {F::mistral, "mistral", "MistralForCausalLM", "llama", false, true},
    {F::mixtral, "mixtral", "MixtralForCausalLM", "llama", true, true},
    {F::qwen2, "qwen2", "Qwen2ForCausalLM", "qwen2"},
    {F::qwen3, "qwen3", "Qwen3ForCausalLM", "qwen3"},
    {F::qwen2_moe, "qwen2_moe", "Qwen2MoeForCausalLM", "qwen2moe", true},
    {F::qwen3_moe, "qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe", true},
    {F::glm4_moe, "glm4_moe", "Glm4MoeForCausalLM", "glm4moe", true},
    {F::deepseek_v3, "deepseek_v3", "DeepseekV3ForCausalLM", "deepseek2", true},
    {F::granitemoe, "granitemoe", "GraniteMoeForCausalLM", "granitemoe", true, true},
};

constexpr uint32_t kAll = 0xffffffffu;
constexpr uint32_t kPlainAttention = kAll & ~F::deepseek_v3;
constexpr uint32_t kDense = F::llama | F::mistral | F::qwen2 | F::qwen3;
constexpr uint32_t kLeadDense = F::glm4_moe | F::deepseek_v3;
constexpr uint32_t kMlpGate = F::qwen2_moe | F::qwen3_moe | F::glm4_moe | F::deepseek_v3;

constexpr GgufName kModel[] = {
    {"token_embd.weight", "model.embed_tokens.weight", kAll},
    {"output_norm.weight", "model.norm.weight", kAll},
    {"output.weight", "lm_head.weight", kAll, N::optional},
};

constexpr GgufName kLayer[] = {
    {"attn_norm.weight", "input_layernorm.weight", kAll},
    {"attn_q.weight", "self_attn.q_proj.weight", kPlainAttention},
    {"attn_q.weight", "self_attn.q_proj.weight", F::deepseek_v3, N::optional},
    {"attn_k.weight", "self_attn.k_proj.weight", kPlainAttention},
    {"attn_v.weight", "self_attn.v_proj.weight", kPlainAttention},
    {"attn_q.bias", "self_attn.q_proj.bias", kPlainAttention, N::optional},
    {"attn_k.bias", "self_attn.k_proj.bias", kPlainAttention, N::optional},
    {"attn_v.bias", "self_attn.v_proj.bias", kPlainAttention, N::optional},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", F::qwen3 | F::qwen3_moe},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", F::qwen3 | F::qwen3_moe},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", F::glm4_moe, N::optional},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", F::glm4_moe, N::optional},
    {"attn_q_a.weight", "self_attn.q_a_proj.weight", F::deepseek_v3, N::optional},
    {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", F::deepseek_v3, N::optional},
    {"attn_q_b.weight", "self_attn.q_b_proj.weight", F::deepseek_v3, N::optional},
    {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", F::deepseek_v3},
    {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", F::deepseek_v3},
    {"attn_output.weight", "self_attn.o_proj.weight", kAll},
    {"attn_output.bias", "self_attn.o_proj.bias", F::llama | F::mistral | F::mixtral | F::granitemoe, N::optional},
    {"ffn_norm.weight", "post_attention_layernorm.weight", kAll & ~F::glm4_moe},
    {"post_attention_norm.weight", "post_attention_layernorm.weight", F::glm4_moe},
    {"ffn_gate.weight", "mlp.gate_proj.weight", kDense | kLeadDense, N::dense},
    {"ffn_up.weight", "mlp.up_proj.weight", kDense | kLeadDense, N::dense},
    {"ffn_down.weight", "mlp.down_proj.weight", kDense | kLeadDense, N::dense},
    {"ffn_gate.bias", "mlp.gate_proj.bias", F::llama | F::mistral, N::optional},
    {"ffn_up.bias", "mlp.up_proj.bias", F::llama | F::mistral, N::optional},
    {"ffn_down.bias", "mlp.down_proj.bias", F::llama | F::mistral, N::optional},
    {"ffn_gate_inp.weight", "mlp.gate.weight", kMlpGate, N::moe},
    {"ffn_gate_inp.weight", "block_sparse_moe.gate.weight", F::mixtral, N::moe},
    {"ffn_gate_inp.weight", "block_sparse_moe.router.layer.weight", F::granitemoe, N::moe},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", F::glm4_moe, N::moe},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", F::deepseek_v3, N::moe_optional},
    {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", kLeadDense, N::moe_optional},
    {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", kLeadDense, N::moe_optional},
    {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", kLeadDense, N::moe_optional},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", F::qwen2_moe, N::moe},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", F::qwen2_moe, N::moe},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", F::qwen2_moe, N::moe},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", F::qwen2_moe, N::moe},
    {"nextn.eh_proj.weight", "eh_proj.weight", kLeadDense, N::nextn},
    {"nextn.enorm.weight", "enorm.weight", kLeadDense, N::nextn},
    {"nextn.hnorm.weight", "hnorm.weight", kLeadDense, N::nextn},
    {"nextn.embed_tokens.weight", "embed_tokens.weight", kLeadDense, N::nextn},
    {"nextn.shared_head_head.weight", "shared_head.head.weight", kLeadDense, N::nextn},
    {"nextn.shared_head_norm.weight", "shared_head.norm.weight", kLeadDense, N::nextn},
};

constexpr GgufExpertName kExperts[] = {
    {"ffn_gate_exps.weight", GgufExpertName::gate},
    {"ffn_up_exps.weight", GgufExpertName::up},
    {"ffn_down_exps.weight", GgufExpertName::down},
};

}  // namespace

const GgufFamily* find_family(std::string_view model_type) {
  const auto* it = std::ranges::find(kFamilies, model_type, &GgufFamily::model_type);
  return it == std::end(kFamilies) ? nullptr : it;
}

const GgufFamily* family_of_gguf(std::string_view arch, bool experts) {
  const auto* it = std::ranges::find_if(
      kFamilies, [&](const GgufFamily& f) { return f.arch == arch && (f.experts == experts || arch != "llama"); });
  return it == std::end(kFamilies) ? nullptr : it;
}

std::string list_families(bool gguf) {
  std::string list;
  for (const GgufFamily& family : kFamilies) {
    const std::string_view name = gguf ? family.arch : family.model_type;
    if (gguf && family.is(F::mistral | F::mixtral)) continue;  // both are llama there
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  return list;
}

std::span<const GgufName> gguf_model_names() { return kModel; }
std::span<const GgufName> gguf_layer_names() { return kLayer; }
std::span<const GgufExpertName> gguf_expert_names() { return kExperts; }

std::string_view hf_layer_name(const GgufFamily& family, std::string_view gguf) {
  for (const GgufName& name : kLayer) {
    if (family.is(name.families) && name.gguf == gguf) return name.hf;
  }
  return {};
}

std::string hf_expert_name(const GgufFamily& family, int64_t expert, GgufExpertName::Kind kind) {
  static constexpr std::array<std::string_view, 3> kProjections = {"gate_proj", "up_proj", "down_proj"},
                                                   kMixtral = {"w1", "w3", "w2"};
  if (family.id == F::mixtral) return fmt::format("block_sparse_moe.experts.{}.{}.weight", expert, kMixtral[kind]);
  return fmt::format("mlp.experts.{}.{}.weight", expert, kProjections[kind]);
}

std::string_view hf_fused_gate_up(const GgufFamily& family) {
  return family.id == F::granitemoe ? "block_sparse_moe.input_linear.weight" : "mlp.experts.gate_up_proj";
}

std::string_view hf_fused_down(const GgufFamily& family) {
  return family.id == F::granitemoe ? "block_sparse_moe.output_linear.weight" : "mlp.experts.down_proj";
}

int64_t interleaved_row(int64_t row, int64_t half_head) {
  if (half_head == 0) return row;
  const int64_t in_head = row % (2 * half_head);
  return row - in_head + 2 * (in_head % half_head) + in_head / half_head;
}

int64_t row_of_interleaved(int64_t row, int64_t half_head) {
  if (half_head == 0) return row;
  const int64_t in_head = row % (2 * half_head);
  return row - in_head + in_head % 2 * half_head + in_head / 2;
}

}  // namespace overproof
