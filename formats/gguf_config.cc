#include "formats/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/gguf_kind.h"
#include "formats/none_values.h"
#include "formats/rope_config.h"

namespace overproof {
namespace {

/// Numbers of llama.cpp's llama_expert_gating_func_type.
constexpr int64_t kSigmoid = 2;
/// Bounds what a hostile config.json makes us allocate; real heads have a few hundred values.
constexpr int64_t kMostHeadDim = 65536;

class Keys {
 public:
  Keys(const Json& config, const std::filesystem::path& file, const ModelKind& family, GgufMetadata& out)
      : config_(config, file, "", JsonNull::absent), family_(family), out_(out) {}

  GgufShape add(int64_t vocabulary, int64_t nextn_layers) {
    refuse_later_tokens(config_, family_);
    if (const std::string act = config_.text("hidden_act", "silu"); act != "silu")
      refuse(fmt::format("hidden_act is '{}', not 'silu'", act));
    shape_.layers = positive("num_hidden_layers");
    shape_.hidden = positive("hidden_size");
    shape_.heads = positive("num_attention_heads");
    shape_.tied = config_.flag("tie_word_embeddings", false);
    out_.add_text("general.architecture", family_.arch);
    u32("vocab_size", vocabulary);
    u32("context_length", context_length());
    u32("embedding_length", shape_.hidden);
    u32("block_count", shape_.layers + nextn_layers);
    u32("feed_forward_length", positive(writes_ungated(family_) ? "moe_intermediate_size" : "intermediate_size"));
    u32("attention.head_count", shape_.heads);
    f32("attention.layer_norm_rms_epsilon", config_.number("rms_norm_eps"));
    if (family_.latent_attention) add_latent_attention();
    else add_attention();
    add_rope();
    if (family_.has_experts()) add_experts();
    else shape_.dense_layers = shape_.layers;
    if (nextn_layers > 0) u32("nextn_predict_layers", nextn_layers);
    if (family_.multipliers) add_multipliers();
    if (writes_ungated(family_)) {  // granitemoe's multipliers
      f32("attention.scale", 1 / std::sqrt(double(shape_.head_dim)));
      for (const char* scale : {"embedding_scale", "residual_scale", "logit_scale"}) f32(scale, 1.0);
    }
    return std::move(shape_);
  }

 private:
  [[noreturn]] void refuse(const std::string& cause) const {
    config_.fail(
        fmt::format("{}; llama.cpp computes '{}' differently, so this model cannot be written as GGUF", cause, family_.arch));
  }
  std::string key(std::string_view name) const { return fmt::format("{}.{}", family_.arch, name); }
  void u32(std::string_view name, int64_t value) { out_.add_u32(key(name), value); }
  void f32(std::string_view name, double value) { out_.add_f32(key(name), value); }
  int64_t positive(const std::string& name, std::optional<int64_t> fallback = {}) const {
    const int64_t n = count(config_, name, fallback);
    if (n == 0) config_.fail(name, "is 0");
    return n;
  }
  /// Below 2^31, so that products of two fit.
  static int64_t count(const JsonObject& in, const std::string& name, std::optional<int64_t> fallback = {}) {
    return in.integer(name, 0, INT32_MAX, fallback);
  }

  /// llama.cpp gives these architectures no attention window. Up to the window's width the function is the same, and the file
  /// declares no longer context.
  int64_t context_length() {
    const int64_t context = positive("max_position_embeddings");
    int64_t window = 0;
    if (family_.sliding_window) {
      window = count(config_, "sliding_window", has_null(config_, "sliding_window") ? 0 : *family_.sliding_window);
    } else if (config_.flag("use_sliding_window", false)) {
      window = count(config_, "sliding_window", 4096);
    }
    if (window == 0 || window >= context) return context;
    shape_.notes.push_back(fmt::format(
        "the model sees {} tokens back, which llama.cpp does not limit: context_length is {}, not {}", window, window, context));
    return window;
  }

  void add_attention() {
    shape_.head_dim = family_.own_head_dim ? positive("head_dim") : positive("head_dim", shape_.hidden / shape_.heads);
    shape_.kv_heads =
        family_.kv_heads_by_heads ? positive("num_key_value_heads", shape_.heads) : positive("num_key_value_heads");
    if (shape_.head_dim % 2 != 0 || shape_.head_dim > kMostHeadDim || shape_.heads % shape_.kv_heads != 0) {
      config_.fail(fmt::format("{} heads of width {} over {} key heads do not make an attention", shape_.heads, shape_.head_dim,
                               shape_.kv_heads));
    }
    if (family_.square_gguf_attention && shape_.heads * shape_.head_dim != shape_.hidden) {
      refuse(fmt::format("{} heads of width {} are not hidden_size {}", shape_.heads, shape_.head_dim, shape_.hidden));
    }
    u32("attention.head_count_kv", shape_.kv_heads);
    u32("attention.key_length", shape_.head_dim);
    u32("attention.value_length", shape_.head_dim);
  }

  /// Multi-head latent attention runs with one wide key head, which the per-head matrices k_b and v_b unfold.
  void add_latent_attention() {
    if (!python_flag(config_, "rope_interleave", true)) refuse("rope_interleave is false");
    const int64_t rope = positive("qk_rope_head_dim");
    shape_.kv_heads = 1;
    shape_.head_dim = rope;
    shape_.kv_rank = positive("kv_lora_rank");
    shape_.qk_nope = positive("qk_nope_head_dim");
    shape_.v_head_dim = positive("v_head_dim");
    const int64_t q_rank = count(config_, "q_lora_rank", 0);
    // src/models/deepseek2.cpp knows the "lite" models, which have no q_lora_rank, by their number of layers.
    if (q_rank > 0 && (shape_.layers == 26 || shape_.layers == 27))
      refuse(fmt::format("q_lora_rank is {} with {} layers", q_rank, shape_.layers));
    u32("attention.head_count_kv", 1);
    u32("attention.q_lora_rank", q_rank);
    u32("attention.kv_lora_rank", shape_.kv_rank);
    u32("attention.key_length", shape_.kv_rank + rope);
    u32("attention.value_length", shape_.kv_rank);
    u32("attention.key_length_mla", shape_.qk_nope + rope);
    u32("attention.value_length_mla", shape_.v_head_dim);
  }

  void add_rope() {
    const RopeConfig given = read_rope_config(config_, family_);
    const JsonObject rope = given.object(config_.origin());
    const double theta = rope.number("rope_theta");
    if (!(theta > 0)) config_.fail("rope_theta is not positive");
    f32("rope.freq_base", theta);

    double partial = rope.number("partial_rotary_factor");
    if (family_.latent_attention) partial = 1.0;  // head_dim is the part that turns
    if (partial != 1.0 && family_.rotary_part == 1.0) refuse(fmt::format("RoPE turns {} of each head", partial));
    const auto turned = int64_t(double(shape_.head_dim) * partial);
    if (turned < 2 || turned > shape_.head_dim || turned % 2 != 0)
      config_.fail(fmt::format("RoPE cannot turn {} of {} values", turned, shape_.head_dim));
    u32("rope.dimension_count", turned);

    const std::string type = rope.text("rope_type");
    if (type == "default") return out_.add_text(key("rope.scaling.type"), "none");
    if (type == "llama3") {
      if (!family_.interleaved_rope) refuse("its RoPE scaling is 'llama3'");  // the only loaders that read rope_freqs.weight
      // No loader needs these; with them the factors can be read back as the parameters they were made from.
      u32("rope.scaling.original_context_length", count(rope, "original_max_position_embeddings"));
      f32("rope.scaling.low_freq_factor", rope.number("low_freq_factor"));
      f32("rope.scaling.high_freq_factor", rope.number("high_freq_factor"));
      shape_.rope_factors = llama3_rope_factors(shape_.head_dim, theta, rope.number("factor"), rope.number("low_freq_factor"),
                                                rope.number("high_freq_factor"), rope.number("original_max_position_embeddings"));
      return out_.add_text(key("rope.scaling.type"), "none");
    }
    if (type != "linear" && type != "yarn") refuse(fmt::format("its RoPE scaling is '{}'", type));
    const double factor = rope.number("factor");
    if (!(factor >= 1)) config_.fail("the RoPE scaling's factor is below 1");
    out_.add_text(key("rope.scaling.type"), type);
    f32("rope.scaling.factor", factor);
    if (type == "yarn") add_yarn(rope, factor);
  }

  void add_yarn(const JsonObject& rope, double factor) {
    u32("rope.scaling.original_context_length", count(rope, "original_max_position_embeddings"));
    f32("rope.scaling.yarn_beta_fast", rope.number("beta_fast", 32.0));
    f32("rope.scaling.yarn_beta_slow", rope.number("beta_slow", 1.0));
    if (!python_flag(rope, "truncate", true)) refuse("its RoPE scaling does not truncate");
    // llama.cpp multiplies queries and keys by 0.1 ln(factor) + 1, the default of transformers.
    const double usual = 0.1 * std::log(factor) + 1;
    const double mscale = rope.number("mscale", 0.0), mscale_all = rope.number("mscale_all_dim", 0.0);
    if (family_.latent_attention) {
      // Its graph scales the attention itself, by a factor that follows from the multiplier alone.
      if (mscale_all == 0) refuse("its RoPE scaling is 'yarn' with no mscale_all_dim");
      if (mscale != mscale_all) refuse(fmt::format("RoPE's mscale is {} but mscale_all_dim {}", mscale, mscale_all));
      f32("rope.scaling.yarn_log_multiplier", 0.1 * mscale_all);  // the loader takes the 0.1 out again
    } else if (mscale != 0 || mscale_all != 0) {
      refuse("its RoPE scaling has an mscale");
    }
    if (rope.has("attention_factor") && std::abs(rope.number("attention_factor") - usual) > 1e-6) {
      refuse(fmt::format("RoPE's attention_factor is {}", rope.number("attention_factor")));
    }
  }

  void add_experts() {
    const bool qwen = family_.mixture == ModelKind::Mixture::qwen;
    shape_.experts = positive(std::string(experts_key_of(family_, [&](std::string_view key) { return config_.has(key); })));
    const int64_t used = positive("num_experts_per_tok");
    if (used > shape_.experts) config_.fail(fmt::format("{} of {} experts cannot be used", used, shape_.experts));
    u32("expert_count", shape_.experts);
    u32("expert_used_count", used);
    if (qwen) {
      if (count(config_, "decoder_sparse_step", 1) != 1) refuse("decoder_sparse_step is not 1");
      if (const Json* dense = config_.find("mlp_only_layers"); dense && !dense->empty())
        refuse("mlp_only_layers names layers without experts");
      // qwen2moe.cpp leaves the weights of the chosen experts as they are, qwen3moe.cpp lets them sum to 1.
      const bool normalised = config_.flag("norm_topk_prob", false);
      if (normalised != family_.normalised_gguf_weights) refuse(fmt::format("norm_topk_prob is {}", normalised));
      u32("expert_feed_forward_length", positive("moe_intermediate_size"));
      if (family_.gated_shared_expert) u32("expert_shared_feed_forward_length", positive("shared_expert_intermediate_size"));
    }
    if (family_.mixture == ModelKind::Mixture::leading_dense) {
      shape_.dense_layers = std::min(count(config_, "first_k_dense_replace"), shape_.layers);
      u32("expert_feed_forward_length", positive("moe_intermediate_size"));
      u32("expert_shared_count", count(config_, "n_shared_experts",
                                      family_.shared_experts < 0 ? std::nullopt : std::optional(family_.shared_experts)));
      u32("leading_dense_block_count", shape_.dense_layers);
      u32("expert_gating_func", kSigmoid);
      f32("expert_weights_scale", config_.number("routed_scaling_factor"));
      out_.add_bool(key("expert_weights_norm"), python_flag(config_, "norm_topk_prob", true));
      add_groups();
    }
  }

  /// Experts in groups, of which the best are searched. All groups, or one, is none.
  void add_groups() {
    const bool v3 = family_.is(ModelKind::deepseek_v3);
    const int64_t groups = positive("n_group", v3 ? 8 : 1), used = positive("topk_group", v3 ? 4 : 1);
    if (groups == 1 || used >= groups) return;
    if (shape_.experts % groups != 0 || shape_.experts / groups < 2)
      refuse(fmt::format("{} experts are in {} groups", shape_.experts, groups));
    u32("expert_group_count", groups);
    u32("expert_group_used_count", used);
  }

  void add_multipliers() {
    const auto scale = [&](const std::string& hf, std::string_view gguf) {
      // Null is 1 / sqrt(width) in torch's attention, and nothing that the others can compute with.
      const bool null = has_null(config_, hf), attention = hf == "attention_multiplier";
      if (null && !attention) refuse(fmt::format("{} is null", hf));
      const double value = null ? 1 / std::sqrt(double(shape_.head_dim)) : config_.number(hf, 1.0);
      if (value == 0) refuse(fmt::format("{} is 0", hf));  // there 0 means that the key is not set
      f32(gguf, value);
    };
    scale("attention_multiplier", "attention.scale");
    scale("embedding_multiplier", "embedding_scale");
    scale("residual_multiplier", "residual_scale");
    scale("logits_scaling", "logit_scale");
  }

  JsonObject config_;
  const ModelKind& family_;
  GgufMetadata& out_;
  GgufShape shape_;
};

}  // namespace

GgufShape add_architecture_keys(const Json& config, const std::filesystem::path& file, const ModelKind& family,
                                int64_t vocabulary, int64_t nextn_layers, GgufMetadata& out) {
  return Keys(config, file, family, out).add(vocabulary, nextn_layers);
}

std::vector<float> llama3_rope_factors(int64_t head_dim, double theta, double factor, double low, double high, double original) {
  std::vector<float> factors(size_t(head_dim / 2));
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, 2.0 * double(i) / double(head_dim));
    const double smooth = std::clamp((original / wavelength - low) / (high - low), 0.0, 1.0);
    factors[size_t(i)] = float(1 / ((1 - smooth) / factor + smooth));
  }
  return factors;
}

}  // namespace overproof
