// config.json of a GGUF file: the inverse of formats/gguf_config.cc. Declared in formats/gguf_checkpoint.h.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "formats/generation_config.h"
#include "formats/gguf_checkpoint.h"
#include "formats/gguf_config.h"
#include "formats/gguf_kind.h"
#include "formats/model_config.h"

namespace overproof {
namespace {

}  // namespace

/// Llama 3 stores its RoPE scaling as divisors of each frequency. They are made from four numbers, of which three are the
/// same in every released checkpoint and have keys in the files that this program writes, so the four are recovered and checked; other
/// divisors are refused.
Json GgufCheckpoint::rope_scaling(int64_t head_dim, double theta) const {
  const std::string prefix = arch_ + ".rope.scaling.";
  const std::string type = file_.text(prefix + "type", "none");
  const auto refuse = [&](const std::string& cause) { throw FormatError(file_.path(), -1, cause); };
  const GgufTensor* factors = find_stored(kGgufRopeFactors);
  if (!factors) {
    if (type == "none") return {};
    if (type == "linear") return {{"rope_type", "linear"}, {"factor", file_.number(prefix + "factor")}};
    if (type != "yarn") refuse(fmt::format("RoPE scaling '{}' is not supported", type));
    Json yarn = {{"rope_type", "yarn"},
                 {"factor", file_.number(prefix + "factor")},
                 {"original_max_position_embeddings", file_.integer(prefix + "original_context_length")},
                 {"beta_fast", file_.number(prefix + "yarn_beta_fast", 32.0)},
                 {"beta_slow", file_.number(prefix + "yarn_beta_slow", 1.0)}};
    for (const char* other : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
      if (file_.has(prefix + other)) refuse(fmt::format("RoPE scaling with '{}' is not supported", other));
    }
    if (const double mscale = 10 * file_.number(prefix + "yarn_log_multiplier", 0.0); mscale != 0) {
      // A tenth in the file: float's 0.1 is no decimal one.
      yarn["mscale"] = yarn["mscale_all_dim"] = std::round(mscale * 1e6) / 1e6;
    }
    return yarn;
  }
  if (type != "none") refuse(fmt::format("has both RoPE scaling '{}' and RoPE factors", type));
  if (factors->elements() != head_dim / 2) {
    refuse(fmt::format("'{}' has {} values for heads of width {}", kGgufRopeFactors, factors->elements(), head_dim));
  }
  std::vector<float> divisor(size_t(head_dim / 2));
  ggml_to_f32(factors->type, factors->data.data(), divisor);
  const double factor = *std::max_element(divisor.begin(), divisor.end());
  const double low = file_.number(prefix + "low_freq_factor", 1.0), high = file_.number(prefix + "high_freq_factor", 4.0);
  if (!(high > low)) refuse(fmt::format("its RoPE scaling has a high_freq_factor of {} and a low_freq_factor of {}", high, low));
  const int64_t original = file_.integer(prefix + "original_context_length", 8192);
  const std::vector<float> expected = llama3_rope_factors(head_dim, theta, factor, low, high, double(original));
  for (size_t i = 0; i < divisor.size(); ++i) {
    if (!(std::abs(divisor[i] - expected[i]) <= 1e-4 * expected[i])) {
      refuse(fmt::format("'{}' is not Llama 3's scaling (factor {} at {} positions): value {} is {}, not {}", kGgufRopeFactors,
                         factor, original, i, divisor[i], expected[i]));
    }
  }
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", low},
          {"high_freq_factor", high},
          {"original_max_position_embeddings", original}};
}

Json GgufCheckpoint::config() const {
  const auto key = [&](std::string_view k) { return fmt::format("{}.{}", arch_, k); };
  const auto refuse = [&](const std::string& cause) { throw FormatError(file_.path(), -1, cause); };
  const bool latent = family_.latent_attention;
  if (!file_.boolean(key("attention.causal"), true))
    refuse(fmt::format("'{}' is false: tokens would see later ones, which is not supported", key("attention.causal")));
  const int64_t hidden = file_.integer(key("embedding_length")), heads = file_.integer(key("attention.head_count"));
  if (hidden <= 0 || heads <= 0) refuse("embedding_length and attention.head_count must be positive");
  int64_t head_dim = file_.integer(key("attention.key_length"), hidden / heads);
  if (latent) head_dim = file_.integer(key("rope.dimension_count"));
  else if (head_dim != file_.integer(key("attention.value_length"), head_dim))
    refuse("keys and values of different widths are not supported");
  if (head_dim <= 0) refuse("keys must have a positive width");
  const TensorInfo* embedding = find("model.embed_tokens.weight");
  if (!embedding || embedding->shape.size() != 2) refuse("has no matrix token_embd.weight");
  const double theta = file_.number(key("rope.freq_base"), 10000.0);
  const int64_t rotary = file_.integer(key("rope.dimension_count"), head_dim);
  if (rotary != head_dim && family_.rotary_part == 1.0) refuse("RoPE over a part of the head is not supported");
  const int64_t blocks = file_.integer(key("block_count")), nextn = file_.integer(key("nextn_predict_layers"), 0);
  if (blocks <= 0 || nextn < 0 || nextn >= blocks)
    refuse(fmt::format("has {} layers, of which {} predict further tokens", blocks, nextn));
  if (nextn > 0 && family_.mixture != ModelKind::Mixture::leading_dense)
    refuse("layers for predicting further tokens are not supported");

  Json c = {{"architectures", {family_.architecture}},
            {"model_type", family_.model_type},
            {"hidden_act", "silu"},
            {"hidden_size", hidden},
            {"intermediate_size", file_.integer(key("feed_forward_length"))},
            {"num_hidden_layers", blocks - nextn},
            {"num_attention_heads", heads},
            {"num_key_value_heads", latent ? heads : file_.integer(key("attention.head_count_kv"), heads)},
            {"head_dim", head_dim},
            {"vocab_size", embedding->shape[0]},
            {"max_position_embeddings", file_.integer(key("context_length"))},
            {"rms_norm_eps", file_.number(key("attention.layer_norm_rms_epsilon"))},
            {"rope_theta", theta},
            {"attention_bias", find("model.layers.0.self_attn.q_proj.bias") != nullptr},
            {"mlp_bias", find("model.layers.0.mlp.up_proj.bias") != nullptr},
            {"tie_word_embeddings", find("lm_head.weight") == nullptr}};
  set_stored_dtype(c, DType::f32);
  Json scaling = rope_scaling(head_dim, theta);
  if (scaling.is_object()) c["rope_scaling"] = scaling;
  else scaling = {{"rope_type", "default"}};
  scaling["rope_theta"] = theta;
  if (const int64_t window = file_.integer(key("attention.sliding_window"), 0); window > 0) c["sliding_window"] = window;
  c.update(gguf_token_ids(file_));
  if (family_.rotary_part != 1.0)
    c["partial_rotary_factor"] = scaling["partial_rotary_factor"] = double(rotary) / double(head_dim);
  c["rope_parameters"] = scaling;
  if (family_.has_experts()) add_expert_config(c);
  if (latent) add_latent_config(c);
  if (family_.multipliers) {
    c["attention_multiplier"] = file_.number(key("attention.scale"), 1 / std::sqrt(double(head_dim)));
    c["embedding_multiplier"] = file_.number(key("embedding_scale"), 1.0);
    c["residual_multiplier"] = file_.number(key("residual_scale"), 1.0);
    c["logits_scaling"] = file_.number(key("logit_scale"));
  }
  if (writes_ungated(family_)) {
    const auto scales = [&](std::string_view name, double usual) { return std::abs(file_.number(key(name), usual) - usual) > 1e-6 * usual; };
    if (scales("attention.scale", 1 / std::sqrt(double(head_dim))) || scales("embedding_scale", 1.0) || scales("residual_scale", 1.0) ||
        scales("logit_scale", 1.0))
      refuse("granitemoe with shared experts is supported without multipliers (attention.scale, embedding_scale, residual_scale, logit_scale)");
  }
  return c;
}

void GgufCheckpoint::add_expert_config(Json& c) const {
  const auto key = [&](std::string_view k) { return fmt::format("{}.{}", arch_, k); };
  c["num_experts_per_tok"] = file_.integer(key("expert_used_count"));
  c[std::string(family_.experts_key)] = file_.integer(key("expert_count"));
  if (family_.sliding_window) c["sliding_window"] = nullptr;
  if (family_.mixture == ModelKind::Mixture::qwen) {
    c["moe_intermediate_size"] = file_.integer(key("expert_feed_forward_length"));
    c["norm_topk_prob"] = family_.normalised_gguf_weights;
    c["decoder_sparse_step"] = 1;
    c["mlp_only_layers"] = Json::array();
    if (family_.gated_shared_expert) {
      c["shared_expert_intermediate_size"] = file_.integer(key("expert_shared_feed_forward_length"));
      c["qkv_bias"] = c["attention_bias"];
    } else {
      c["num_local_experts"] = c["num_experts"];
    }
  }
  if (family_.mixture != ModelKind::Mixture::leading_dense) return;
  // llama.cpp numbers the gating functions; 2 is the sigmoid, the only one that these models have in transformers. Without the
  // key glm4moe has it, deepseek2 the softmax of its second version.
  if (file_.integer(key("expert_gating_func"), family_.softmax_gguf_scores ? 1 : 2) != 2) {
    throw FormatError(file_.path(), -1, "expert_gating_func is not sigmoid (2)");
  }
  c["n_shared_experts"] = file_.integer(key("expert_shared_count"), 0);
  c["moe_intermediate_size"] = file_.integer(key("expert_feed_forward_length"));
  c["routed_scaling_factor"] = file_.number(key("expert_weights_scale"), 1.0);
  c["norm_topk_prob"] = file_.boolean(key("expert_weights_norm"), false);
  c["first_k_dense_replace"] = file_.integer(key("leading_dense_block_count"), 0);
  c["n_group"] = file_.integer(key("expert_group_count"), 1);
  c["topk_group"] = file_.integer(key("expert_group_used_count"), 1);
  c["num_nextn_predict_layers"] = file_.integer(key("nextn_predict_layers"), 0);
  if (family_.computed.qk_norm == ModelKind::Given::by_config)
    c["use_qk_norm"] = find("model.layers.0.self_attn.q_norm.weight") != nullptr;
}

void GgufCheckpoint::add_latent_config(Json& c) const {
  const auto key = [&](std::string_view k) { return fmt::format("{}.{}", arch_, k); };
  const int64_t rope = file_.integer(key("rope.dimension_count"));
  const int64_t q_rank = file_.integer(key("attention.q_lora_rank"), 0);
  c["q_lora_rank"] = q_rank == 0 ? Json() : Json(q_rank);
  c["kv_lora_rank"] = file_.integer(key("attention.kv_lora_rank"));
  c["qk_rope_head_dim"] = rope;
  c["qk_nope_head_dim"] = file_.integer(key("attention.key_length_mla")) - rope;
  c["qk_head_dim"] = file_.integer(key("attention.key_length_mla"));
  c["v_head_dim"] = file_.integer(key("attention.value_length_mla"));
  c["rope_interleave"] = true;
}

}  // namespace overproof
