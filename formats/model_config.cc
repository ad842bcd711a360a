#include "formats/model_config.h"

#include <fmt/format.h>

#include <map>
#include <optional>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

/// What transformers assumes when config.json leaves a key out; a checkpoint may rely on it.
struct Defaults {
  int64_t kv_heads;  ///< 0: as many as heads
  double rms_norm_eps;
  int64_t head_dim;        ///< 0: hidden_size / heads
  int64_t sliding_window;  ///< 0: none
};

Defaults defaults_of(const std::string& type) {
  if (type == "llama") return {0, 1e-6, 0, 0};
  if (type == "mistral") return {8, 1e-6, 0, 4096};
  if (type == "qwen2") return {32, 1e-6, 0, 0};
  if (type == "qwen3") return {32, 1e-6, 128, 0};
  return {8, 1e-5, 0, 0};  // glm4_moe
}

/// Typed access to config.json; every message names file and key.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail("is not a JSON object");
  }
  [[noreturn]] void fail(const std::string& cause) const { throw UsageError(fmt::format("{}: {}", where_, cause)); }
  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool says_null(const char* key) const { return json_.contains(key) && json_.at(key).is_null(); }
  std::optional<int64_t> integer(const char* key) const {
    const Json* v = find(key);
    if (!v) return std::nullopt;
    if (!v->is_number_integer()) fail(fmt::format("{} must be an integer", key));
    return v->get<int64_t>();
  }
  /// A size: 1 .. 2^31 - 1.
  int64_t size(const char* key, std::optional<int64_t> otherwise = std::nullopt) const {
    const std::optional<int64_t> v = integer(key);
    if (!v && !otherwise) fail(fmt::format("{} is missing", key));
    const int64_t n = v ? *v : *otherwise;
    if (n < 1 || n > INT32_MAX) fail(fmt::format("{} is {}, which is no sensible size", key, n));
    return n;
  }
  double number(const char* key, double otherwise) const {
    const Json* v = find(key);
    if (!v) return otherwise;
    if (!v->is_number()) fail(fmt::format("{} must be a number", key));
    return v->get<double>();
  }
  double positive(const char* key, double otherwise) const {
    const double v = number(key, otherwise);
    if (!(v > 0)) fail(fmt::format("{} must be positive", key));
    return v;
  }
  bool flag(const char* key, bool otherwise) const {
    const Json* v = find(key);
    if (!v) return otherwise;
    if (!v->is_boolean()) fail(fmt::format("{} must be true or false", key));
    return v->get<bool>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    const Json* v = find(key);
    if (!v) return otherwise;
    if (!v->is_string()) fail(fmt::format("{} must be a text", key));
    return v->get<std::string>();
  }
  /// A token id; of a list the first.
  int64_t token(const char* key) const {
    const Json* v = find(key);
    if (v && v->is_array()) v = v->empty() ? nullptr : &v->front();
    if (!v) return -1;
    if (!v->is_number_integer()) fail(fmt::format("{} must be a token id", key));
    return v->get<int64_t>();
  }
  std::optional<Fields> object(const char* key) const {
    const Json* v = find(key);
    if (!v) return std::nullopt;
    return Fields(*v, fmt::format("{}: {}", where_, key));
  }

 private:
  const Json& json_;
  const std::string where_;
};

/// RoPE stands in `rope_parameters` since transformers 5, and in `rope_theta` and `rope_scaling` before.
void read_rope(const Fields& f, ModelConfig& c) {
  c.rope_theta = f.positive("rope_theta", 10000.0);
  double partial = f.number("partial_rotary_factor", c.model_type == "glm4_moe" ? 0.5 : 1.0);
  if (const std::optional<Fields> rope = f.object(f.find("rope_parameters") ? "rope_parameters" : "rope_scaling")) {
    c.rope_theta = rope->positive("rope_theta", c.rope_theta);
    partial = rope->number("partial_rotary_factor", partial);
    const std::string type = rope->text("rope_type", rope->text("type", "default"));
    if (type == "llama3") {
      c.has_rope_scaling = true;
      RopeScaling& s = c.rope_scaling;
      s.factor = rope->positive("factor", s.factor);
      s.low_freq_factor = rope->positive("low_freq_factor", s.low_freq_factor);
      s.high_freq_factor = rope->positive("high_freq_factor", s.high_freq_factor);
      s.original_max_position = rope->size("original_max_position_embeddings", c.max_position);
      if (!(s.high_freq_factor > s.low_freq_factor)) rope->fail("high_freq_factor must be larger than low_freq_factor");
    } else if (type != "default") {
      rope->fail(fmt::format("RoPE of type '{}' is not supported; 'default' and 'llama3' are", type));
    }
  }
  if (partial != 1.0) f.fail(fmt::format("partial_rotary_factor {} is not supported; 1.0 is", partial));
}

void refuse_sliding_windows(const Fields& f, const ModelConfig& c) {
  const Defaults defaults = defaults_of(c.model_type);
  if (const Json* types = f.find("layer_types")) {
    if (!types->is_array()) f.fail("layer_types must be a list");
    for (const Json& type : *types)
      if (type != "full_attention") f.fail(fmt::format("attention of type {} is not supported", type.dump()));
  }
  if (f.flag("use_sliding_window", false)) f.fail("use_sliding_window is not supported");
  if (c.model_type != "mistral" || f.says_null("sliding_window")) return;
  const int64_t window = f.size("sliding_window", defaults.sliding_window);
  if (window < c.max_position) f.fail(fmt::format("a sliding window of {} positions is not supported", window));
}

void read_experts(const Fields& f, ModelConfig& c) {
  c.n_routed_experts = f.size("n_routed_experts");
  c.n_shared_experts = f.integer("n_shared_experts").value_or(1);
  if (c.n_shared_experts < 0 || c.n_shared_experts > INT32_MAX) f.fail("n_shared_experts is no sensible count");
  c.moe_intermediate_size = f.size("moe_intermediate_size");
  c.top_k = f.size("num_experts_per_tok");
  c.routed_scaling_factor = f.positive("routed_scaling_factor", 1.0);
  c.norm_topk_prob = f.flag("norm_topk_prob", true);
  if (c.n_routed_experts < 2) f.fail("n_routed_experts must be at least 2");
  if (c.top_k > c.n_routed_experts) f.fail("num_experts_per_tok is larger than n_routed_experts");
  if (f.integer("first_k_dense_replace").value_or(1) != 0)
    f.fail("dense layers before the MoE layers (first_k_dense_replace) are not supported");
  if (f.size("n_group", 1) != 1 || f.size("topk_group", 1) != 1) f.fail("grouped routing (n_group, topk_group) is not supported");
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
  if (!c.is_moe()) return Wide(c.layers) * 3 * c.hidden_size * c.intermediate_size;
  const Wide router = Wide(c.n_routed_experts) * (c.hidden_size + 1);  // all of it is read for every token
  return c.layers * (Wide(3) * c.hidden_size * c.moe_intermediate_size * (routed + c.n_shared_experts) + router);
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& config, const std::string& where) {
  const Fields f(config, where);
  ModelConfig c;
  c.model_type = f.text("model_type", "");
  const bool known = c.model_type == "llama" || c.model_type == "mistral" || c.model_type == "qwen2" || c.model_type == "qwen3" ||
                     c.model_type == "glm4_moe";
  if (!known)
    f.fail(fmt::format("model_type '{}' is not supported; llama, mistral, qwen2, qwen3 and glm4_moe are", c.model_type));
  const Defaults defaults = defaults_of(c.model_type);
  c.vocab_size = f.size("vocab_size");
  c.hidden_size = f.size("hidden_size");
  c.layers = f.size("num_hidden_layers");
  c.heads = f.size("num_attention_heads");
  c.kv_heads =
      f.size("num_key_value_heads", defaults.kv_heads && !f.says_null("num_key_value_heads") ? defaults.kv_heads : c.heads);
  c.head_dim = f.size("head_dim", defaults.head_dim && !f.says_null("head_dim") ? defaults.head_dim : c.hidden_size / c.heads);
  c.intermediate_size = f.size("intermediate_size", c.model_type == "glm4_moe" ? std::optional<int64_t>(1) : std::nullopt);
  c.max_position = f.size("max_position_embeddings", 2048);
  c.rms_norm_eps = f.positive("rms_norm_eps", defaults.rms_norm_eps);
  c.tie_embeddings = f.flag("tie_word_embeddings", false);
  c.bos_id = f.token("bos_token_id");
  c.eos_id = f.token("eos_token_id");
  if (c.heads % c.kv_heads != 0) f.fail("num_attention_heads is no multiple of num_key_value_heads");
  if (c.head_dim % 2 != 0) f.fail("an odd head_dim has no RoPE");
  if (c.layers > 4096) f.fail(fmt::format("num_hidden_layers is {}, which is no sensible size", c.layers));
  if (const std::string act = f.text("hidden_act", "silu"); act != "silu")
    f.fail(fmt::format("activation '{}' is not supported; 'silu' is", act));
  if (f.flag("mlp_bias", false)) f.fail("mlp_bias is not supported");

  const bool bias = f.flag("attention_bias", false);
  if (bias && (c.model_type == "llama" || c.model_type == "qwen3"))
    f.fail("attention_bias with a bias of the output projection is not supported");
  c.attention_bias = c.model_type == "qwen2" || (c.model_type == "glm4_moe" && bias);
  c.qk_norm = c.model_type == "qwen3" || (c.model_type == "glm4_moe" && f.flag("use_qk_norm", false));
  read_rope(f, c);
  refuse_sliding_windows(f, c);
  if (c.model_type == "glm4_moe") read_experts(f, c);
  if (shared_parameters(c) + ffn_parameters(c, c.n_routed_experts) > INT64_MAX)
    f.fail("its sizes multiply to more weights than can be counted, which is no sensible shape");
  return c;
}

Json ModelConfig::to_json() const {
  static const std::map<std::string, std::string> kArchitectures = {{"llama", "LlamaForCausalLM"},
                                                                    {"mistral", "MistralForCausalLM"},
                                                                    {"qwen2", "Qwen2ForCausalLM"},
                                                                    {"qwen3", "Qwen3ForCausalLM"},
                                                                    {"glm4_moe", "Glm4MoeForCausalLM"}};
  OVERPROOF_CHECK(kArchitectures.contains(model_type));
  Json rope = {{"rope_type", "default"}, {"rope_theta", rope_theta}};
  if (has_rope_scaling) {
    rope["rope_type"] = "llama3";
    rope["factor"] = rope_scaling.factor;
    rope["low_freq_factor"] = rope_scaling.low_freq_factor;
    rope["high_freq_factor"] = rope_scaling.high_freq_factor;
    rope["original_max_position_embeddings"] = rope_scaling.original_max_position;
  }
  Json j = {{"architectures", {kArchitectures.at(model_type)}},
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
  if (model_type == "llama") {
    j["attention_bias"] = false;
    j["mlp_bias"] = false;
  }
  if (model_type == "qwen3") j["attention_bias"] = false;
  if (model_type == "mistral") j["sliding_window"] = nullptr;  // left out it would mean 4096
  if (model_type == "glm4_moe") {
    // Left out, the factor means 0.5, in either place.
    j["partial_rotary_factor"] = rope["partial_rotary_factor"] = 1.0;
    j["attention_bias"] = attention_bias;
    j["use_qk_norm"] = qk_norm;
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

}  // namespace overproof
