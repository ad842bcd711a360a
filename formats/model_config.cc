#include "formats/model_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "formats/model_kinds.h"
#include "formats/model_parameters.h"
#include "formats/student_profile.h"

namespace overproof {
namespace {

/// Weights outside the FFNs: embeddings, attention, norms.
WideCount shared_parameters(const ModelConfig& c) {
  using Wide = WideCount;
  const Wide q = Wide(c.heads) * c.head_dim, kv = Wide(c.kv_heads) * c.head_dim;
  Wide layer = 2 * c.hidden_size;
  if (c.is_latent()) {
    layer += c.q_rank > 0 ? c.q_rank * (c.hidden_size + q + 1) : c.hidden_size * q;
    layer += (Wide(c.kv_rank) + c.rope_dim) * c.hidden_size + c.kv_rank * (1 + c.heads * (Wide(c.nope_dim) + c.value_dim));
    layer += Wide(c.heads) * c.value_dim * c.hidden_size;
  } else {
    layer += c.hidden_size * (q + 2 * kv) + q * c.hidden_size;
  }
  if (c.attention_bias) layer += q + 2 * kv;
  if (c.output_bias) layer += c.hidden_size;
  if (c.qk_norm) layer += c.head_norm == HeadNorm::head ? Wide(2) * c.head_dim : q + kv;
  if (c.places == NormPlaces::sandwich) layer += 2 * c.hidden_size;
  if (c.places == NormPlaces::parallel) layer -= c.hidden_size;
  return Wide(c.vocab_size) * c.hidden_size * (c.tie_embeddings ? 1 : 2) + c.hidden_size + c.layers * layer;
}

WideCount ffn_parameters(const ModelConfig& c, int64_t routed) {
  using Wide = WideCount;
  int64_t mixtures = 0;
  for (int64_t l = 0; l < c.layers; ++l) mixtures += c.shape_of(l).experts;
  const Wide dense =
      Wide(3) * c.hidden_size * c.intermediate_size + (c.mlp_bias ? Wide(2) * c.intermediate_size + c.hidden_size : Wide(0));
  Wide router = Wide(c.n_routed_experts) * c.hidden_size;  // all of it is read for every token
  if (c.expert_scores == ExpertScores::sigmoid) router += c.n_routed_experts;
  if (c.shared_gate) router += c.hidden_size;
  return (c.layers - mixtures) * dense +
         mixtures * (Wide(3) * c.hidden_size * (Wide(c.moe_intermediate_size) * routed + c.shared_width()) + router);
}

}  // namespace

WideCount all_parameters(const ModelConfig& c) { return shared_parameters(c) + ffn_parameters(c, c.n_routed_experts); }

bool ModelConfig::has_windows() const { return std::ranges::any_of(shapes, &LayerShape::windowed); }

std::string ModelConfig::why_not_trained() const {
  const ModelKind* kind = find_model_kind(model_type);
  if (!kind || !kind->computed.trained) {
    std::string known;
    for (const ModelKind& k : model_kinds())
      if (k.computed.trained) known += fmt::format("{}{}", known.empty() ? "" : ", ", k.model_type);
    return fmt::format("models of the type {} can be run, but not trained or cut by model/; {} can", model_type, known);
  }
  if (has_windows()) return "its layers see sliding windows, which are computed, but not trained";
  if (rope.scaled() && rope.type != "llama3")
    return fmt::format("its RoPE is of type '{}', which is computed, but not trained", rope.type);
  if (rope.turned > 0) return "RoPE turns a part of its heads, which is computed, but not trained";
  if (output_bias) return "its attention output has a bias, which is computed, but not trained";
  if (!shapes.empty()) return "it has dense layers among those with experts, which are computed, but not trained";
  if (expert_groups > 1) return "its experts are chosen in groups, which is computed, but not trained";
  return {};
}

std::string ModelConfig::why_not_carved() const {
  if (is_moe()) return "it is a mixture of experts, so it can teach and be pruned, but not be carved";
  if (std::string cause = why_not_trained(); !cause.empty()) return cause;
  if (mlp_bias) return "its FFNs have biases (mlp_bias), which experts of glm4_moe and qwen2_moe do not have: it cannot be carved";
  const std::string not_glm = why_not_in_profile(*this, StudentProfile::glm4_moe),
                    not_qwen = why_not_in_profile(*this, StudentProfile::qwen2_moe);
  if (!not_glm.empty() && !not_qwen.empty())
    return fmt::format("{}; {}: it cannot be carved. prune-neurons keeps the architecture", not_glm, not_qwen);
  return {};
}

Json ModelConfig::to_json() const {
  if (source_) return *source_;
  const ModelKind* kind = find_model_kind(model_type);
  OVERPROOF_CHECK(kind && kind->computed.trained);
  Json turning = {{"rope_type", rope.type}, {"rope_theta", rope.theta}};
  if (rope.scaled()) {
    OVERPROOF_CHECK(rope.type == "llama3");
    turning["factor"] = rope.factor;
    turning["low_freq_factor"] = rope.low_freq_factor;
    turning["high_freq_factor"] = rope.high_freq_factor;
    turning["original_max_position_embeddings"] = rope.original_max_position;
  }
  Json j = {{"architectures", {kind->architecture}},
            {"model_type", model_type},
            {"vocab_size", vocab_size},
            {"hidden_size", hidden_size},
            {"intermediate_size", intermediate_size},
            {"num_hidden_layers", layers},
            {"num_attention_heads", heads},
            {"num_key_value_heads", kv_heads},
            {"head_dim", head_dim},
            {"max_position_embeddings", max_position},
            {"hidden_act", "silu"},
            {"rms_norm_eps", rms_norm_eps},
            {"rope_theta", rope.theta},  // read by loaders older than rope_parameters
            {"tie_word_embeddings", tie_embeddings},
            {"use_cache", true}};
  if (rope.scaled()) {
    j["rope_scaling"] = turning;
    j["rope_scaling"].erase("rope_theta");
  }
  if (bos_id >= 0) j["bos_token_id"] = bos_id;
  if (eos_id >= 0) j["eos_token_id"] = eos_id;
  const ModelKind::Computed& facts = kind->computed;
  if (facts.output_bias || facts.qkv_bias == ModelKind::Given::by_config) j[std::string(facts.bias_key)] = attention_bias;
  if (facts.mlp_bias) j["mlp_bias"] = mlp_bias;
  if (kind->sliding_window) j["sliding_window"] = nullptr;  // left out it would mean the default's width
  if (kind->rotary_part != 1.0)                             // left out, the factor means that, in either place
    j["partial_rotary_factor"] = turning["partial_rotary_factor"] = 1.0;
  if (facts.qk_norm == ModelKind::Given::by_config) j["use_qk_norm"] = qk_norm;
  if (kind->mixture == ModelKind::Mixture::qwen) {
    j[std::string(kind->experts_key)] = n_routed_experts;
    j["moe_intermediate_size"] = moe_intermediate_size;
    j["shared_expert_intermediate_size"] = shared_width();
    j["num_experts_per_tok"] = top_k;
    j["norm_topk_prob"] = norm_topk_prob;
    j["decoder_sparse_step"] = 1;
    j["mlp_only_layers"] = Json::array();
    j["use_sliding_window"] = false;
  } else if (kind->has_experts()) {
    j["n_routed_experts"] = n_routed_experts;
    j["n_shared_experts"] = n_shared_experts;
    j["moe_intermediate_size"] = moe_intermediate_size;
    j["num_experts_per_tok"] = top_k;
    j["routed_scaling_factor"] = routed_scaling_factor;
    j["norm_topk_prob"] = norm_topk_prob;
    j["n_group"] = 1;
    j["topk_group"] = 1;
    j["first_k_dense_replace"] = 0;
    j["num_nextn_predict_layers"] = 0;
  }
  j["rope_parameters"] = turning;
  return j;
}

int64_t ModelConfig::parameters() const { return int64_t(all_parameters(*this)); }
int64_t ModelConfig::active_parameters() const { return int64_t(shared_parameters(*this) + ffn_parameters(*this, top_k)); }

double ModelConfig::ffn_activation() const {
  if (!is_moe()) return 1.0;
  if (shared_width() == n_shared_experts * moe_intermediate_size)
    return double(top_k + n_shared_experts) / double(n_routed_experts + n_shared_experts);
  const double width = double(moe_intermediate_size), shared = double(shared_width());
  return (double(top_k) * width + shared) / (double(n_routed_experts) * width + shared);
}

void set_stored_dtype(Json& config, DType dtype) {
  OVERPROOF_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16);
  config["dtype"] = dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
  config.erase("torch_dtype");
}

}  // namespace overproof
