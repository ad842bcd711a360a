#pragma once
// The weights of any architecture of formats/model_kinds.h in the one form that model/ computes: Llama's names, one matrix for each
// projection and expert, and RoPE pairs half a head apart. So the decoder has no code for an architecture's files.

#include <memory>
#include <string>
#include <string_view>

#include "formats/model_config.h"
#include "formats/tensor_source.h"

namespace overproof {

/// `tensors`, which must outlive the result, under these names behind "model.layers.N.":
///   input_layernorm, post_attention_layernorm   norms before attention and FFN, wherever the file has them
///   attention_out_norm, ffn_out_norm            norms of their results
///   self_attn.q_proj, k_proj, v_proj, o_proj    fused ones cut into their parts
///   self_attn.q_norm, k_norm                    [head_dim], [heads x head_dim] or [heads, head_dim]
///   mlp.gate_proj, up_proj, down_proj           dense
///   mlp.gate, mlp.experts.N.gate_proj, ...      a mixture; shared ones are mlp.shared_experts, or
///                                               mlp.shared_expert with the gate mlp.shared_expert_gate
/// Rows of q_proj, k_proj and of their biases and norms are in the order in which the pair of RoPE i is (i, i + head_dim / 2), values that do not
/// turn last in each half; in latent attention so are q_proj or q_b_proj, and the last rope_dim rows of kv_a_proj_with_mqa among themselves.
/// Norms that multiply by 1 + weight (NormKind::rms_plus_one) have that sum as their weight.
/// Returns null where `tensors` already are of this form.
std::unique_ptr<const TensorSource> canonical_tensors(const ModelConfig& config, const TensorSource& tensors);

/// The module of the shared experts, behind "model.layers.N.", with its last dot: a gated one has a name of its own.
constexpr std::string_view shared_experts_module(bool gated) { return gated ? "mlp.shared_expert." : "mlp.shared_experts."; }

/// The Linear module of the checkpoint that has the canonical one, both behind "model.layers.N.": "self_attn.q_proj" is in
/// "self_attn.qkv_proj" of phi3. "" where it is no Linear of its own (granitemoe's experts).
std::string stored_module(const ModelConfig& config, std::string_view canonical);

}  // namespace overproof
