#include "formats/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/model_kinds.h"
#include "formats/rope_config.h"

namespace overproof {
namespace {

/// A size: 1 .. 2^31 - 1.
int64_t size(const JsonObject& o, const char* key, std::optional<int64_t> fallback = {}) {
  const int64_t n = o.integer(key, 1, INT32_MAX, fallback);
  if (n < 1 || n > INT32_MAX) o.fail(key, fmt::format("is missing, and its default would be {}", n));
  return n;
}

double positive(const JsonObject& o, const char* key, std::optional<double> fallback = {}) {
  const double v = o.number(key, fallback);
  if (!(v > 0)) o.fail(key, "is not positive");
  return v;
}

/// A token id, -1 when there is none; of a list the first.
int64_t token(const JsonObject& o, const char* key) {
  const Json* v = o.find(key);
  if (v && v->is_array()) v = v->empty() ? nullptr : &v->front();
  if (!v) return -1;
  if (!v->is_number_integer() || *v > INT32_MAX) o.fail(key, "is not a token id");
  return std::max<int64_t>(-1, v->get<int64_t>());
}

/// null and left out can mean different defaults.
bool has_null(const JsonObject& o, const char* key) { return o.json().contains(key) && o.json().at(key).is_null(); }

void read_rope(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  const RopeConfig config = read_rope_config(f, kind);
  const JsonObject rope = config.object(f.origin());
  c.rope_theta = positive(rope, "rope_theta");
  const std::string type = rope.text("rope_type");
  if (type == "llama3") {
    c.has_rope_scaling = true;
    RopeScaling& s = c.rope_scaling;
    s.factor = positive(rope, "factor");
    s.low_freq_factor = positive(rope, "low_freq_factor");
    s.high_freq_factor = positive(rope, "high_freq_factor");
    s.original_max_position = size(rope, "original_max_position_embeddings", c.max_position);
    if (!(s.high_freq_factor > s.low_freq_factor)) rope.fail("high_freq_factor must be larger than low_freq_factor");
  } else if (type != "default") {
    rope.fail(fmt::format("RoPE of type '{}' is not supported; 'default' and 'llama3' are", type));
  }
  if (const double partial = rope.number("partial_rotary_factor"); partial != 1.0)
    f.fail(fmt::format("partial_rotary_factor {} is not supported; 1.0 is", partial));
}

void refuse_sliding_windows(const JsonObject& f, const ModelKind& kind, const ModelConfig& c) {
  if (const Json* types = f.find("layer_types")) {
    if (!types->is_array()) f.fail("layer_types", "is not a list");
    for (const Json& type : *types)
      if (type != "full_attention") f.fail(fmt::format("attention of type {} is not supported", type.dump()));
  }
  if (f.flag("use_sliding_window", false)) f.fail("use_sliding_window is not supported");
  if (!kind.sliding_window || has_null(f, "sliding_window")) return;
  const int64_t window = size(f, "sliding_window", kind.sliding_window);
  if (window < c.max_position) f.fail(fmt::format("a sliding window of {} positions is not supported", window));
}

void read_experts(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  c.n_routed_experts = size(f, "n_routed_experts");
  c.n_shared_experts = f.integer("n_shared_experts", 0, INT32_MAX, kind.shared_experts);
  c.moe_intermediate_size = size(f, "moe_intermediate_size");
  c.top_k = size(f, "num_experts_per_tok");
  c.routed_scaling_factor = positive(f, "routed_scaling_factor", 1.0);
  c.norm_topk_prob = f.flag("norm_topk_prob", true);
  if (c.n_routed_experts < 2) f.fail("n_routed_experts must be at least 2");
  if (c.top_k > c.n_routed_experts) f.fail("num_experts_per_tok is larger than n_routed_experts");
  if (f.integer("first_k_dense_replace", 0, INT32_MAX, 1) != 0)
    f.fail("dense layers before the MoE layers (first_k_dense_replace) are not supported");
  if (size(f, "n_group", 1) != 1 || size(f, "topk_group", 1) != 1)
    f.fail("grouped routing (n_group, topk_group) is not supported");
}

/// Holds products of sizes below 2^31 with room to spare.
using Wide = __int128;

/// Weights outside the FFNs: embeddings, attention, norms.
Wide shared_parameters(const ModelConfig& c) {
  const Wide q = Wide(c.heads) * c.head_dim, kv = Wide(c.kv_heads) * c.head_dim;
  Wide layer = c.hidden_size * (q + 2 * kv) + q * c.hidden_size + 2 * c.hidden_size;
  if (c.attention_bias) layer += q + 2 * kv;
  if (c.qk_norm) layer += 2 * c.head_dim;
  return Wide(c.vocab_size) * c.hidden_size * (c.tie_embeddings ? 1 : 2) + c.hidden_size + c.layers * layer;
}

Wide ffn_parameters(const ModelConfig& c, int64_t routed) {
  if (!c.is_moe())
    return c.layers * (Wide(3) * c.hidden_size * c.intermediate_size + (c.mlp_bias ? Wide(2) * c.intermediate_size + c.hidden_size : Wide(0)));
  const Wide router = Wide(c.n_routed_experts) * (c.hidden_size + 1);  // all of it is read for every token
  return c.layers * (Wide(3) * c.hidden_size * c.moe_intermediate_size * (routed + c.n_shared_experts) + router);
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& config, const std::filesystem::path& file) {
  const JsonObject f(config, file, "", JsonNull::absent);
  ModelConfig c;
  c.model_type = f.text("model_type", "");
  const ModelKind* kind = find_model_kind(c.model_type);
  if (!kind || !kind->computed) {
    std::string known;
    for (const ModelKind& k : model_kinds())
      if (k.computed) known += fmt::format("{}{}", known.empty() ? "" : ", ", k.model_type);
    f.fail(fmt::format("model_type '{}' is not supported; supported: {}", c.model_type.substr(0, 100), known));
  }
  const ModelKind::Computed& facts = *kind->computed;
  c.vocab_size = size(f, "vocab_size");
  c.hidden_size = size(f, "hidden_size");
  c.layers = size(f, "num_hidden_layers");
  c.heads = size(f, "num_attention_heads");
  c.kv_heads =
      size(f, "num_key_value_heads", facts.kv_heads && !has_null(f, "num_key_value_heads") ? facts.kv_heads : c.heads);
  c.head_dim = size(f, "head_dim", facts.head_dim && !has_null(f, "head_dim") ? facts.head_dim : c.hidden_size / c.heads);
  c.intermediate_size = size(f, "intermediate_size", kind->has_experts() ? std::optional<int64_t>(1) : std::nullopt);
  c.max_position = size(f, "max_position_embeddings", 2048);
  c.rms_norm_eps = positive(f, "rms_norm_eps", facts.rms_norm_eps);
  c.tie_embeddings = f.flag("tie_word_embeddings", false);
  c.bos_id = token(f, "bos_token_id");
  c.eos_id = token(f, "eos_token_id");
  if (c.heads % c.kv_heads != 0) f.fail("num_attention_heads is not a multiple of num_key_value_heads");
  if (c.head_dim % 2 != 0) f.fail("head_dim", "is odd; RoPE needs pairs");
  if (c.layers > 4096) f.fail("num_hidden_layers", fmt::format("is {}; at most 4096 are supported", c.layers));
  if (const std::string act = f.text("hidden_act", "silu"); act != "silu")
    f.fail(fmt::format("activation '{}' is not supported; 'silu' is", act));
  c.mlp_bias = f.flag("mlp_bias", false);
  if (c.mlp_bias && !facts.mlp_bias) f.fail(fmt::format("mlp_bias is not supported for {}; for llama it is", c.model_type));

  const bool bias = f.flag("attention_bias", false);
  if (bias && facts.output_bias)
    f.fail("attention_bias with a bias of the output projection is not supported");
  const auto given = [](ModelKind::Given when, bool flag) {
    return when == ModelKind::Given::always || (when == ModelKind::Given::by_config && flag);
  };
  c.attention_bias = given(facts.qkv_bias, bias);
  c.qk_norm = given(facts.qk_norm, f.flag("use_qk_norm", false));
  read_rope(f, *kind, c);
  refuse_sliding_windows(f, *kind, c);
  if (kind->has_experts()) read_experts(f, *kind, c);
  if (shared_parameters(c) + ffn_parameters(c, c.n_routed_experts) > INT64_MAX)
    f.fail("its sizes multiply to more weights than can be counted");
  return c;
}

Json ModelConfig::to_json() const {
  const ModelKind* kind = find_model_kind(model_type);
  OVERPROOF_CHECK(kind && kind->computed);
  Json rope = {{"rope_type", "default"}, {"rope_theta", rope_theta}};
  if (has_rope_scaling) {
    rope["rope_type"] = "llama3";
    rope["factor"] = rope_scaling.factor;
    rope["low_freq_factor"] = rope_scaling.low_freq_factor;
    rope["high_freq_factor"] = rope_scaling.high_freq_factor;
    rope["original_max_position_embeddings"] = rope_scaling.original_max_position;
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
            {"rope_theta", rope_theta},  // read by loaders older than rope_parameters
            {"tie_word_embeddings", tie_embeddings},
            {"use_cache", true}};
  if (has_rope_scaling) {
    j["rope_scaling"] = rope;
    j["rope_scaling"].erase("rope_theta");
  }
  if (bos_id >= 0) j["bos_token_id"] = bos_id;
  if (eos_id >= 0) j["eos_token_id"] = eos_id;
  const ModelKind::Computed& facts = *kind->computed;
  if (facts.output_bias || facts.qkv_bias == ModelKind::Given::by_config) j["attention_bias"] = attention_bias;
  if (facts.mlp_bias) j["mlp_bias"] = mlp_bias;
  if (kind->sliding_window) j["sliding_window"] = nullptr;  // left out it would mean the default's width
  if (kind->rotary_part != 1.0)  // left out, the factor means that, in either place
    j["partial_rotary_factor"] = rope["partial_rotary_factor"] = 1.0;
  if (facts.qk_norm == ModelKind::Given::by_config) j["use_qk_norm"] = qk_norm;
  if (kind->has_experts()) {
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
  j["rope_parameters"] = rope;
  return j;
}

int64_t ModelConfig::parameters() const { return int64_t(shared_parameters(*this) + ffn_parameters(*this, n_routed_experts)); }
int64_t ModelConfig::active_parameters() const { return int64_t(shared_parameters(*this) + ffn_parameters(*this, top_k)); }

double ModelConfig::ffn_activation() const {
  return is_moe() ? double(top_k + n_shared_experts) / double(n_routed_experts + n_shared_experts) : 1.0;
}

void set_stored_dtype(Json& config, DType dtype) {
  OVERPROOF_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16);
  config["dtype"] = dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
  config.erase("torch_dtype");
}

}  // namespace overproof
