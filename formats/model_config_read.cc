// ModelConfig::from_json: what config.json states, and what transformers' configuration classes assume where it does not.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/model_config.h"
#include "formats/model_kinds.h"
#include "formats/model_parameters.h"
#include "formats/none_values.h"
#include "formats/rope_config.h"

namespace overproof {
namespace {

using Facts = ModelKind::Computed;

/// A size: 1 .. 2^31 - 1.
int64_t size(const JsonObject& o, std::string_view key, std::optional<int64_t> fallback = {}) {
  const int64_t n = o.integer(key, 1, INT32_MAX, fallback);
  if (n < 1 || n > INT32_MAX) o.fail(key, fmt::format("is missing, and its default would be {}", n));
  return n;
}

double positive(const JsonObject& o, std::string_view key, std::optional<double> fallback = {}) {
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

std::vector<double> pair_factors(const JsonObject& rope, const char* key, int64_t pairs) {
  const Json& list = rope.list(key);
  if (int64_t(list.size()) != pairs) rope.fail(key, fmt::format("has {} factors; RoPE turns {} pairs", list.size(), pairs));
  std::vector<double> factors;
  for (const Json& value : list) {
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>()))
      rope.fail(key, "is not a list of positive numbers");
    factors.push_back(value.get<double>());
  }
  return factors;
}

/// transformers: yarn_get_mscale.
double yarn_scale(double factor, double multiplier) { return factor <= 1 ? 1.0 : 0.1 * multiplier * std::log(factor) + 1.0; }

/// null means the ratio of both contexts; left out it is a fault, as in transformers.
double context_factor(const JsonObject& rope, const ModelConfig& c, const RopeShape& s) {
  if (has_null(rope, "factor")) return double(c.max_position) / double(s.original_max_position);
  return positive(rope, "factor");
}

void read_yarn(const JsonObject& rope, const ModelConfig& c, RopeShape& s) {
  s.original_max_position = size(rope, "original_max_position_embeddings", c.max_position);
  s.factor = context_factor(rope, c, s);
  const double scale = rope.number("mscale", 0.0), scale_all = rope.number("mscale_all_dim", 0.0);
  const double usual =
      scale != 0 && scale_all != 0 ? yarn_scale(s.factor, scale) / yarn_scale(s.factor, scale_all) : yarn_scale(s.factor, 1.0);
  s.attention_factor = positive(rope, "attention_factor", usual);
  const auto or_default = [&](const char* key, double fallback) {
    const double value = rope.number(key, 0.0);
    return value == 0 ? fallback : value;
  };
  s.beta_fast = or_default("beta_fast", 32.0);
  s.beta_slow = or_default("beta_slow", 1.0);
  if (!(s.beta_fast > 0 && s.beta_slow > 0)) rope.fail("beta_fast and beta_slow must be positive");
  if (s.theta == 1.0) rope.fail("rope_theta is 1, for which yarn is not defined");
  s.truncate = python_flag(rope, "truncate", true);
}

void read_longrope(const JsonObject& rope, const ModelConfig& c, int64_t pairs, RopeShape& s) {
  s.original_max_position = size(rope, "original_max_position_embeddings", c.max_position);
  s.factor = positive(rope, "factor", double(c.max_position) / double(s.original_max_position));
  if (s.factor > 1 && s.original_max_position < 2) rope.fail("original_max_position_embeddings must be at least 2");
  s.attention_factor =
      positive(rope, "attention_factor",
               s.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(s.factor) / std::log(double(s.original_max_position))));
  s.short_factor = pair_factors(rope, "short_factor", pairs);
  s.long_factor = pair_factors(rope, "long_factor", pairs);
}

/// `width`: values of a head that RoPE may turn.
RopeShape read_rope(const JsonObject& f, const RopeConfig& config, const ModelKind& kind, const ModelConfig& c, int64_t width) {
  const JsonObject rope = config.object(f.origin());
  RopeShape s;
  s.type = rope.text("rope_type");
  s.theta = positive(rope, "rope_theta");
  const double part = rope.number("partial_rotary_factor");
  if (s.type == "proportional") {
    if (!(part >= 0 && part <= 1)) rope.fail("partial_rotary_factor", "is not between 0 and 1");
    s.proportion = part;
  } else if (part != 1.0) {
    if (!kind.computed.partial_rope)
      f.fail(fmt::format("partial_rotary_factor {} is not supported for {}; 1.0 is", part, c.model_type));
    s.turned = part > 0 && part < 1 ? int64_t(double(width) * part) : 0;
    if (s.turned < 2 || s.turned % 2 != 0)
      f.fail(fmt::format("partial_rotary_factor {} does not give pairs in heads of width {}", part, width));
  }
  const int64_t turned = s.turned > 0 ? s.turned : width;
  if (s.type == "llama3") {
    s.factor = positive(rope, "factor");
    s.low_freq_factor = positive(rope, "low_freq_factor");
    s.high_freq_factor = positive(rope, "high_freq_factor");
    s.original_max_position = size(rope, "original_max_position_embeddings", c.max_position);
    if (!(s.high_freq_factor > s.low_freq_factor)) rope.fail("high_freq_factor must be larger than low_freq_factor");
  } else if (s.type == "linear") {
    s.factor = positive(rope, "factor");
  } else if (s.type == "proportional") {
    s.factor = positive(rope, "factor", 1.0);
  } else if (s.type == "dynamic") {
    s.factor = positive(rope, "factor");
    s.original_max_position = c.max_position;
    if (s.factor < 1 || s.factor > 1e6 || turned <= 2) rope.fail("dynamic RoPE needs a factor between 1 and 1e6, and two pairs or more");
  } else if (s.type == "yarn") {
    read_yarn(rope, c, s);
  } else if (s.type == "longrope") {
    read_longrope(rope, c, turned / 2, s);
  } else if (s.type != "default") {
    rope.fail(fmt::format(
        "RoPE of type '{}' is not supported; default, linear, dynamic, yarn, longrope, llama3 and proportional are", s.type));
  }
  return s;
}

/// Which layers see a window, and how wide it is. Of a window that no text of max_position tokens leaves there is nothing to compute.
void read_windows(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  const WindowRule rule = kind.computed.windows;
  const bool by_key = rule == WindowRule::all || rule == WindowRule::pattern, used = f.flag("use_sliding_window", false);
  const bool by_layer = rule != WindowRule::none && rule != WindowRule::all && rule != WindowRule::all_if_used;
  const Json* types = f.find("layer_types");
  bool named = false;
  if (types) {
    if (!types->is_array()) f.fail("layer_types", "is not a list");
    for (const Json& type : *types)
      if (type != "full_attention" && type != "sliding_attention")
        f.fail(fmt::format("attention of type {} is not supported", type.dump()));
    if (int64_t(types->size()) < c.layers)
      f.fail("layer_types", fmt::format("has {} entries; the model has {} layers", types->size(), c.layers));
    named = std::ranges::find(*types, Json("sliding_attention")) != types->end();
  }
  if (used && rule == WindowRule::none) f.fail(fmt::format("use_sliding_window is not supported for {}", c.model_type));
  const bool on = by_key ? !has_null(f, "sliding_window") : rule != WindowRule::none && used;
  if (named && (!by_layer || !on))
    f.fail("layer_types", "names layers of the type sliding_attention, but no other key switches sliding windows on");
  if (!on && !c.window_rope) return;
  const int64_t usual = kind.sliding_window ? *kind.sliding_window : rule == WindowRule::no_rope_if_used ? 0 : 4096;
  const int64_t window = has_null(f, "sliding_window") ? 0 : f.integer("sliding_window", 0, INT32_MAX, usual);
  const int64_t most = f.integer("max_window_layers", 0, INT32_MAX, 28);
  const int64_t every = f.integer("sliding_window_pattern", 1, INT32_MAX, std::max<int64_t>(1, kind.computed.pattern));
  // Layers with a window may have a RoPE of their own, so they are known however wide it is.
  const bool narrow = window > 0 && window < c.max_position;
  if (!narrow && !c.window_rope) return;
  c.window = window > 0 ? window : INT32_MAX;
  for (int64_t l = 0; l < c.layers; ++l) {
    bool& windowed = c.shapes[size_t(l)].windowed;
    if (types && by_layer) windowed = (*types)[size_t(l)] == "sliding_attention";
    else if (rule == WindowRule::upper_if_used) windowed = l >= most;
    else if (rule == WindowRule::lower_if_used) windowed = (l + 1) % 2 != 0 && l < most;
    else if (rule == WindowRule::no_rope_if_used) windowed = !c.shapes[size_t(l)].rope;
    else if (rule == WindowRule::pattern) windowed = (l + 1) % every != 0;
    else windowed = true;
  }
}

/// smollm3: 1 in `no_rope_layers` is a layer with RoPE.
void read_rope_layers(const JsonObject& f, ModelConfig& c) {
  const int64_t every = f.integer("no_rope_layer_interval", 1, INT32_MAX, 4);
  const Json* list = f.find("no_rope_layers");
  if (list && (!list->is_array() || int64_t(list->size()) < c.layers))
    f.fail("no_rope_layers", "is not a list with an entry for each layer");
  for (int64_t l = 0; l < c.layers; ++l) {
    const Json entry = list ? (*list)[size_t(l)] : Json(int64_t((l + 1) % every != 0));
    if (entry != 0 && entry != 1 && !entry.is_boolean()) f.fail("no_rope_layers", "has an entry that is neither 0 nor 1");
    c.shapes[size_t(l)].rope = entry == 1 || entry == true;
  }
}

void read_groups(const JsonObject& f, ModelConfig& c) {
  refuse_null(f, {"n_group", "topk_group"});
  c.expert_groups = size(f, "n_group", c.model_type == "deepseek_v3" ? 8 : 1);
  c.used_groups = size(f, "topk_group", c.model_type == "deepseek_v3" ? 4 : 1);
  if (c.n_routed_experts % c.expert_groups != 0 || c.used_groups > c.expert_groups)
    f.fail(fmt::format("{} experts cannot be chosen in {} of {} groups (n_group, topk_group)", c.n_routed_experts, c.used_groups,
                       c.expert_groups));
  const int64_t in_group = c.n_routed_experts / c.expert_groups;
  if (c.expert_groups > 1 && c.group_score == GroupScore::best_two && in_group < 2)
    f.fail("n_group", "gives groups of one expert");
  if (c.expert_groups > 1 && c.top_k > in_group * c.used_groups)
    f.fail("num_experts_per_tok", "is larger than the groups that are used");
  if (c.used_groups == c.expert_groups) c.expert_groups = c.used_groups = 1;
}

void read_experts(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  using Mixture = ModelKind::Mixture;
  const bool qwen = kind.mixture == Mixture::qwen;
  const std::string_view key = experts_key_of(kind, [&](std::string_view name) { return f.has(name); });
  c.n_routed_experts = size(f, key);
  c.top_k = size(f, "num_experts_per_tok");
  c.moe_intermediate_size = kind.mixture == Mixture::plain ? c.intermediate_size : size(f, "moe_intermediate_size");
  c.expert_scores = kind.computed.scores;
  c.norm_topk_prob = kind.computed.normalised_weights;
  if (c.n_routed_experts < 2) f.fail(key, "must be at least 2");
  if (c.top_k > c.n_routed_experts) f.fail(fmt::format("num_experts_per_tok is larger than {}", key));
  if (kind.mixture == Mixture::plain) {
    c.routed_scaling_factor = c.residual_scale;  // the experts' outputs are all that it scales
  } else if (qwen) {
    c.norm_topk_prob = f.flag("norm_topk_prob", false);
  } else {
    refuse_null(f, {"n_shared_experts", "routed_scaling_factor", "first_k_dense_replace"});
    c.n_shared_experts = f.integer("n_shared_experts", 0, INT32_MAX, kind.shared_experts);
    c.routed_scaling_factor = positive(f, "routed_scaling_factor", c.model_type == "deepseek_v3" ? 2.5 : 1.0);
    if (kind.is(ModelKind::deepseek_v2)) {  // norm_topk_prob has no part in transformers' class
      refuse_null(f, {"topk_method"});
      const std::string method = f.text("topk_method", "greedy");
      if (method != "greedy" && method != "group_limited_greedy")
        f.fail(fmt::format("topk_method '{}' is not supported", method));
      c.group_score = GroupScore::best;
      if (method == "group_limited_greedy") read_groups(f, c);
    } else {
      c.norm_topk_prob = python_flag(f, "norm_topk_prob", true);
      read_groups(f, c);
    }
  }
  if (kind.gated_shared_expert) {
    c.n_shared_experts = 1;
    c.shared_intermediate_size = size(f, "shared_expert_intermediate_size");
    c.shared_gate = true;
  }
  const int64_t leading = kind.mixture != Mixture::leading_dense ? 0
                                                                 : f.integer("first_k_dense_replace", 0, INT32_MAX,
                                                                             kind.is(ModelKind::glm4_moe)      ? 1
                                                                             : kind.is(ModelKind::deepseek_v3) ? 3
                                                                                                               : 0);
  const Json none = Json::array(), &dense = qwen && f.has("mlp_only_layers") ? f.list("mlp_only_layers") : none;
  const int64_t step = qwen ? size(f, "decoder_sparse_step", 1) : 1;
  for (int64_t l = 0; l < c.layers; ++l)
    c.shapes[size_t(l)].experts = l >= leading && (l + 1) % step == 0 && std::ranges::find(dense, Json(l)) == dense.end();
}

void read_latent(const JsonObject& f, ModelConfig& c) {
  refuse_null(f, {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"});
  const int64_t q_rank = has_null(f, "q_lora_rank") ? 0 : f.integer("q_lora_rank", 0, INT32_MAX, 1536);
  c.q_rank = q_rank;
  c.kv_rank = size(f, "kv_lora_rank", 512);
  c.nope_dim = size(f, "qk_nope_head_dim", 128);
  c.rope_dim = size(f, "qk_rope_head_dim", 64);
  c.value_dim = size(f, "v_head_dim", 128);
  if (size(f, "num_key_value_heads", c.heads) != c.heads)
    f.fail("num_key_value_heads", "is not num_attention_heads, as in latent attention");
  c.kv_heads = c.heads;
  c.head_dim = c.nope_dim + c.rope_dim;
  if (c.rope_dim % 2 != 0 || c.nope_dim % 2 != 0) f.fail("qk_nope_head_dim and qk_rope_head_dim must be even");
  c.interleaved_rope = c.model_type == "deepseek_v2" || python_flag(f, "rope_interleave", true);
  if (f.flag("attention_bias", false)) f.fail("attention_bias is not supported with latent attention");
}

void read_scales(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  const Facts& facts = kind.computed;
  if (kind.multipliers) {
    // Of a mixture, null goes to torch's scaled_dot_product_attention, where None means 1 / sqrt(width).
    const bool usual = kind.is(ModelKind::granitemoe) && has_null(f, "attention_multiplier");
    if (!usual) refuse_null(f, {"attention_multiplier"});
    refuse_null(f, {"embedding_multiplier", "residual_multiplier", "logits_scaling"});
    c.embedding_scale = positive(f, "embedding_multiplier", 1.0);
    c.residual_scale = positive(f, "residual_multiplier", 1.0);
    c.attention_scale = usual ? 0.0 : positive(f, "attention_multiplier", 1.0);
    c.logit_scale = 1 / positive(f, "logits_scaling", 1.0);
  }
  if (facts.scaled_embedding) c.embedding_scale = double(float(std::sqrt(double(c.hidden_size))));
  if (kind.is(ModelKind::cohere)) refuse_null(f, {"logit_scale", facts.eps_key});
  if (kind.is(ModelKind::cohere)) c.logit_scale = positive(f, "logit_scale", 0.0625);
  if (kind.is(ModelKind::gemma2 | ModelKind::gemma3_text)) {
    refuse_null(f, {"query_pre_attn_scalar"});
    c.attention_scale = 1 / std::sqrt(positive(f, "query_pre_attn_scalar", 256));
    const auto cap = [&](const char* key, double usual) {
      return has_null(f, key) || (!f.has(key) && !kind.is(ModelKind::gemma2)) ? 0.0 : positive(f, key, usual);
    };
    c.attention_cap =
        kind.is(ModelKind::gemma2) ? cap("attn_logit_softcapping", 50.0) : 0.0;  // gemma3 reads it and does not use it
    c.logit_cap = cap("final_logit_softcapping", 30.0);
  }
}

GateActivation read_activation(const JsonObject& f, const ModelKind& kind) {
  const bool gelu = kind.computed.activation != GateActivation::silu;
  const std::string name = f.text(kind.computed.activation_key, gelu ? "gelu_pytorch_tanh" : "silu");
  if (!gelu && name == "silu") return GateActivation::silu;
  if (gelu && (name == "gelu_pytorch_tanh" || name == "gelu_new" || (name == "gelu" && kind.is(ModelKind::gemma))))
    return GateActivation::gelu_tanh;
  if (gelu && name == "gelu") return GateActivation::gelu;
  f.fail(fmt::format("activation '{}' is not supported for {}; '{}' is", name, kind.model_type,
                     gelu ? "gelu_pytorch_tanh" : "silu"));
}

/// What all architectures have: sizes, biases, norms.
void read_sizes(const JsonObject& f, const ModelKind& kind, ModelConfig& c) {
  const Facts& facts = kind.computed;
  c.vocab_size = size(f, "vocab_size");
  c.hidden_size = size(f, "hidden_size");
  c.layers = size(f, "num_hidden_layers");
  c.heads = size(f, "num_attention_heads");
  if (c.layers > 4096) f.fail("num_hidden_layers", fmt::format("is {}; at most 4096 are supported", c.layers));
  if (kind.latent_attention) {
    read_latent(f, c);
  } else {
    c.kv_heads = size(f, "num_key_value_heads", facts.kv_heads && !has_null(f, "num_key_value_heads") ? facts.kv_heads : c.heads);
    const bool quotient = kind.is(ModelKind::stablelm);
    // Its layers have heads of hidden_size / num_attention_heads, and its RoPE has frequencies for heads of head_dim, where that is not 0.
    if (const int64_t wide = quotient ? f.integer("head_dim", 0, INT32_MAX, 0) : 0; wide > 0 && wide != c.hidden_size / c.heads)
      f.fail("head_dim", fmt::format("is {}, and heads have {} values (hidden_size / num_attention_heads)", wide, c.hidden_size / c.heads));
    c.head_dim = quotient
                     ? c.hidden_size / c.heads
                     : size(f, "head_dim", facts.head_dim && !has_null(f, "head_dim") ? facts.head_dim : c.hidden_size / c.heads);
    c.interleaved_rope = facts.pairs_in_file;
  }
  c.intermediate_size =
      size(f, "intermediate_size",
           kind.mixture != ModelKind::Mixture::plain && kind.has_experts() ? std::optional<int64_t>(1) : std::nullopt);
  c.max_position = size(f, "max_position_embeddings", 2048);
  c.rms_norm_eps = positive(f, facts.eps_key, facts.rms_norm_eps);
  c.tie_embeddings = python_flag(f, "tie_word_embeddings", facts.tied);
  c.bos_id = token(f, "bos_token_id");
  c.eos_id = token(f, "eos_token_id");
  if (c.heads % c.kv_heads != 0) f.fail("num_attention_heads is not a multiple of num_key_value_heads");
  if (c.head_dim < 2 || c.head_dim % 2 != 0) f.fail("head_dim", "is odd; RoPE needs pairs");
  c.activation = read_activation(f, kind);
  c.mlp_bias = f.flag("mlp_bias", false);
  if (c.mlp_bias && !facts.mlp_bias) f.fail(fmt::format("mlp_bias is not supported for {}; for llama it is", c.model_type));

  using Given = ModelKind::Given;
  const auto given = [](Given when, bool flag) { return when == Given::always || (when == Given::by_config && flag); };
  const bool bias = python_flag(f, facts.bias_key, facts.bias_left_out);
  c.attention_bias = given(facts.qkv_bias, bias);
  c.output_bias = facts.output_bias && bias;
  c.qk_norm = given(facts.qk_norm, facts.qk_norm == Given::by_config && f.flag(facts.qk_norm_key, false));
  c.head_norm = facts.head_norm;
  c.norm = facts.norm;
  c.norm_bias = facts.norm_bias;
  c.places = kind.is(ModelKind::stablelm) && f.flag("use_parallel_residual", false) ? NormPlaces::parallel : facts.places;
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& config, const std::filesystem::path& file) {
  const JsonObject f(config, file, "", JsonNull::absent);
  ModelConfig c;
  c.model_type = f.text("model_type", "");
  const ModelKind* kind = find_model_kind(c.model_type);
  if (!kind) {
    std::string known;
    for (const ModelKind& k : model_kinds()) known += fmt::format("{}{}", known.empty() ? "" : ", ", k.model_type);
    f.fail(fmt::format("model_type '{}' is not supported; supported: {}", c.model_type.substr(0, 100), known));
  }
  refuse_later_tokens(f, *kind);
  read_sizes(f, *kind, c);
  read_scales(f, *kind, c);
  c.shapes.assign(size_t(c.layers), LayerShape{});
  const int64_t width = c.is_latent() ? c.rope_dim : c.head_dim;
  const RopeConfig rope = read_rope_config(f, *kind);
  c.rope = read_rope(f, rope, *kind, c, width);
  if (c.is_latent()) {
    if (c.rope.turned == 0) c.rope.turned = c.rope_dim;
    c.attention_scale = 1 / std::sqrt(double(c.head_dim));
    const double scale_all = c.rope.scaled() ? rope.object(f.origin()).number("mscale_all_dim", 0.0) : 0.0;
    if (scale_all != 0) c.attention_scale *= std::pow(yarn_scale(c.rope.factor, scale_all), 2);
  }
  if (const auto of_windows = read_window_rope_config(f, *kind)) c.window_rope = read_rope(f, *of_windows, *kind, c, width);
  if (kind->is(ModelKind::smollm3)) read_rope_layers(f, c);
  read_windows(f, *kind, c);
  if (kind->has_experts()) read_experts(f, *kind, c);
  const auto usual = [&](const LayerShape& s) { return !s.windowed && s.rope && s.experts == kind->has_experts(); };
  if (std::ranges::all_of(c.shapes, usual)) c.shapes.clear();
  if (all_parameters(c) > INT64_MAX) f.fail("its sizes multiply to more weights than can be counted");
  if (!c.why_not_trained().empty()) c.source_ = std::make_shared<const Json>(config);
  return c;
}

}  // namespace overproof
