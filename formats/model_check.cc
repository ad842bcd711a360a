#include "formats/model_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json_object.h"
#include "core/lfs_pointer.h"
#include "core/python_json.h"
#include "formats/architecture.h"
#include "formats/companion_files.h"
#include "formats/none_values.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/token_ids.h"

namespace overproof {
namespace {

using Need = TensorEntry::Need;

constexpr int64_t kUnknown = -1;  // a size that config.json leaves open
constexpr DType kReals[] = {DType::f16, DType::bf16, DType::f32, DType::f64};  // what weights are, once codes were resolved

/// "a, b, c and 7 more".
std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kNamed = 3;
  const std::vector<std::string> first(names.begin(), names.begin() + ptrdiff_t(std::min(kNamed, names.size())));
  return names.size() > kNamed ? fmt::format("{} and {} more", fmt::join(first, ", "), names.size() - kNamed)
                               : fmt::format("{}", fmt::join(first, ", "));
}

/// The sizes that config.json gives.
struct Sizes {
  int64_t layers, hidden, vocabulary, inner, heads, key_heads, head, experts, expert_inner, shared_experts, shared_inner,
      query_rank, key_rank, nope, rope, value;

  Sizes(const JsonObject& c, const ModelKind& kind) {
    const auto size = [&](std::string_view key, int64_t fallback = kUnknown) {
      return key.empty() ? fallback : c.integer(key, 0, INT32_MAX, fallback);
    };
    const bool null_head = c.json().contains("head_dim") && c.json()["head_dim"].is_null();
    const bool null_keys = c.json().contains("num_key_value_heads") && c.json()["num_key_value_heads"].is_null();
    layers = size("num_hidden_layers");
    hidden = size("hidden_size");
    vocabulary = size("vocab_size");
    inner = size("intermediate_size");
    heads = size("num_attention_heads");
    const int64_t usual_keys = kind.computed.kv_heads > 0 ? kind.computed.kv_heads : kUnknown;
    key_heads = size("num_key_value_heads", kind.kv_heads_by_heads || null_keys ? heads : usual_keys);
    const int64_t usual_head = kind.computed.head_dim > 0 ? kind.computed.head_dim
                               : kind.own_head_dim        ? kUnknown
                                                          : quotient(hidden, heads);
    head = kind.is(ModelKind::stablelm) ? quotient(hidden, heads)
                                        : size("head_dim", null_head ? quotient(hidden, heads) : usual_head);
    experts = size(experts_key_of(kind, [&](std::string_view key) { return c.has(key); }));
    expert_inner = kind.mixture == ModelKind::Mixture::plain ? inner : size("moe_intermediate_size");
    shared_experts = kind.gated_shared_expert ? 1 : size("n_shared_experts", kind.shared_experts);
    shared_inner = kind.gated_shared_expert ? size("shared_expert_intermediate_size") : product(shared_experts, expert_inner);
    query_rank = size("q_lora_rank");
    key_rank = size("kv_lora_rank");
    nope = size("qk_nope_head_dim");
    rope = size("qk_rope_head_dim");
    value = size("v_head_dim");
  }

  /// What 64 bits do not hold is more than any tensor has.
  static int64_t product(int64_t a, int64_t b) {
    int64_t out = 0;
    return a < 0 || b < 0 ? kUnknown : __builtin_mul_overflow(a, b, &out) ? INT64_MAX : out;
  }
  static int64_t quotient(int64_t a, int64_t b) { return a < 0 || b <= 0 ? kUnknown : a / b; }
  static int64_t sum(int64_t a, int64_t b) {
    int64_t out = 0;
    return a < 0 || b < 0 ? kUnknown : __builtin_add_overflow(a, b, &out) ? INT64_MAX : out;
  }
};

bool fits(const std::vector<int64_t>& shape, const std::vector<int64_t>& wanted) {
  return shape.size() == wanted.size() &&
         std::ranges::equal(shape, wanted, [](int64_t have, int64_t want) { return want == kUnknown || have == want; });
}

/// The shape of a layer's tensor, by its name in transformers; nothing where only the name is known.
std::optional<std::vector<int64_t>> shape_of(std::string_view hf, const Sizes& s, const ModelKind& kind) {
  const bool bias = hf.ends_with(".bias"), expert = hf.find("experts.#.") != std::string_view::npos,
             shared = hf.find("shared_expert") != std::string_view::npos;
  const auto linear = [&](int64_t out, int64_t in) { return bias ? std::vector<int64_t>{out} : std::vector<int64_t>{out, in}; };
  const auto has = [&](std::string_view part) { return hf.find(part) != std::string_view::npos; };
  if (!has("self_attn.") && has("_layernorm.")) return std::vector<int64_t>{s.hidden};
  if (has("self_attn.")) {
    if (has("_layernorm.norms.")) return std::vector<int64_t>{s.head};
    if (has("q_norm") || has("k_norm")) {
      const int64_t count = has("q_norm") ? s.heads : s.key_heads;
      if (kind.computed.head_norm == HeadNorm::head) return std::vector<int64_t>{s.head};
      if (kind.computed.head_norm == HeadNorm::wide) return std::vector<int64_t>{Sizes::product(count, s.head)};
      return std::vector<int64_t>{count, s.head};
    }
    if (has("qkv_proj")) {
      const int64_t keys = Sizes::product(2, Sizes::product(s.key_heads, s.head));
      return linear(Sizes::sum(Sizes::product(s.heads, s.head), keys), s.hidden);
    }
    if (kind.latent_attention) {
      const int64_t wide = Sizes::sum(s.nope, s.rope);
      if (has("q_proj")) return linear(Sizes::product(s.heads, wide), s.hidden);
      if (has("q_a_proj")) return linear(s.query_rank, s.hidden);
      if (has("q_a_layernorm")) return std::vector<int64_t>{s.query_rank};
      if (has("q_b_proj")) return linear(Sizes::product(s.heads, wide), s.query_rank);
      if (has("kv_a_proj")) return linear(Sizes::sum(s.key_rank, s.rope), s.hidden);
      if (has("kv_a_layernorm")) return std::vector<int64_t>{s.key_rank};
      if (has("kv_b_proj")) return linear(Sizes::product(s.heads, Sizes::sum(s.nope, s.value)), s.key_rank);
      return linear(s.hidden, Sizes::product(s.heads, s.value));
    }
    if (has("q_proj")) return linear(Sizes::product(s.heads, s.head), s.hidden);
    if (has("k_proj") || has("v_proj")) return linear(Sizes::product(s.key_heads, s.head), s.hidden);
    return linear(s.hidden, Sizes::product(s.heads, s.head));
  }
  if (hf == "mlp.shared_expert_gate.weight") return std::vector<int64_t>{1, s.hidden};
  if (hf.ends_with("e_score_correction_bias")) return std::vector<int64_t>{s.experts};
  if (hf.ends_with("gate.weight") || has("router")) return std::vector<int64_t>{s.experts, s.hidden};
  if (has("input_linear")) return std::vector<int64_t>{s.experts, Sizes::product(2, s.expert_inner), s.hidden};
  if (has("output_linear")) return std::vector<int64_t>{s.experts, s.hidden, s.expert_inner};
  const int64_t width = expert ? s.expert_inner : shared ? s.shared_inner : s.inner;
  if (has("gate_up_proj")) return linear(Sizes::product(2, width), s.hidden);
  if (has("gate_proj") || has("up_proj") || has(".w1.") || has(".w3.")) return linear(width, s.hidden);
  if (has("down_proj") || has(".w2.")) return linear(s.hidden, width);
  return std::nullopt;
}

/// Walks all tensors that a model of a known type has.
class ModelChecker {
 public:
  ModelChecker(const Json& config, const ModelKind& kind, const TensorSource& tensors, const std::filesystem::path& where)
      : config_(config, std::filesystem::is_directory(where) ? where / "config.json" : where, "", JsonNull::absent),
        kind_(kind),
        sizes_(config_, kind),
        tensors_(tensors),
        where_(where),
        from_gguf_(!std::filesystem::is_directory(where) || !std::filesystem::exists(where / "config.json")) {}

  std::vector<std::string> run() {
    const bool tied = python_flag(config_, "tie_word_embeddings", kind_.computed.tied);
    if (sizes_.layers == 0) throw FormatError(where_, -1, "its config.json has num_hidden_layers 0: a model without layers is no model of this type");
    expect("model.embed_tokens.weight", std::vector<int64_t>{sizes_.vocabulary, sizes_.hidden}, true);
    expect("model.norm.weight", std::vector<int64_t>{sizes_.hidden}, true);
    if (kind_.computed.norm_bias) expect("model.norm.bias", std::vector<int64_t>{sizes_.hidden}, true);
    expect("lm_head.weight", std::vector<int64_t>{sizes_.vocabulary, sizes_.hidden}, !tied && writes_text());
    for (int64_t layer = 0; layer < sizes_.layers && missing_.size() < kMostMissing; ++layer) expect_layer(layer);
    if (!missing_.empty()) refuse_missing();
    return unused();
  }

 private:
  static constexpr size_t kMostMissing = 100'000;  // bounds what a hostile number of layers makes us collect

  void expect(const std::string& name, const std::optional<std::vector<int64_t>>& shape, bool needed) {
    const TensorInfo* info = tensors_.find(name);
    if (!info) {
      if (needed) missing_.push_back(name);
      return;
    }
    used_.insert(info->name);
    if (!std::ranges::count(kReals, info->dtype))
      throw FormatError(where_, -1,
                        fmt::format("tensor '{}' is stored as {}: codes or flags, not weights, and config.json does not describe how to read them",
                                    name, dtype_name(info->dtype)));
    if (shape && !fits(info->shape, *shape)) {
      std::vector<std::string> wanted;
      for (const int64_t n : *shape) wanted.push_back(n == kUnknown ? "any" : std::to_string(n));
      throw FormatError(where_, -1,
                        fmt::format("tensor '{}' has shape [{}]; its config.json requires [{}]", name,
                                    fmt::join(info->shape, ", "), fmt::join(wanted, ", ")));
    }
  }

  /// Classifiers and embedding models have a head of another kind, or none.
  bool writes_text() const {
    const Json& classes = config_.list_or_empty("architectures");
    return classes.empty() || std::ranges::any_of(classes, [](const Json& name) {
             return !name.is_string() || name.get_ref<const std::string&>().ends_with("ForCausalLM");
           });
  }

  /// Qwen's mixtures name their dense layers, the others begin with some.
  bool has_experts(int64_t layer) const {
    if (!kind_.has_experts()) return false;
    if (kind_.mixture == ModelKind::Mixture::leading_dense)
      return layer >= config_.integer("first_k_dense_replace", 0, INT32_MAX,
                                      kind_.is(ModelKind::glm4_moe)      ? 1
                                      : kind_.is(ModelKind::deepseek_v3) ? 3
                                                                         : 0);
    if (kind_.mixture != ModelKind::Mixture::qwen) return true;
    const Json& dense = config_.list_or_empty("mlp_only_layers");
    return std::ranges::find(dense, Json(layer)) == dense.end() &&
           (layer + 1) % config_.integer("decoder_sparse_step", 1, INT32_MAX, 1) == 0;
  }

  void expect_layer(int64_t layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const bool moe = has_experts(layer);
    // Saved with the names of the modules in memory.
    const bool in_memory = tensors_.find(prefix + "block_sparse_moe.router.weight") != nullptr;
    for (const TensorEntry& entry : layer_tensors()) {
      const TensorUse use = use_of(kind_, entry.hf, config_.json());
      if (!kind_.is(entry.kinds) || entry.need == Need::nextn || use == TensorUse::unused) continue;
      if ((entry.need == Need::dense && moe) || ((entry.need == Need::moe || entry.need == Need::moe_optional) && !moe)) continue;
      const bool optional = entry.need == Need::optional || entry.need == Need::moe_optional;
      // Loaders of GGUF take the biases of queries, keys and values without one of the output.
      const bool spared =
          (from_gguf_ && entry.hf == "self_attn.o_proj.bias") || (in_memory && entry.hf.starts_with("block_sparse_moe."));
      const bool needed = !spared && !(optional && use == TensorUse::open);
      const auto shape = shape_of(entry.hf, sizes_, kind_);
      if (const size_t number = entry.hf.find('#'); number != std::string_view::npos) {
        const int64_t numbers = !entry.hf.starts_with("self_attn.")             ? sizes_.experts
                                : entry.hf.find("q_") != std::string_view::npos ? sizes_.heads
                                                                                : sizes_.key_heads;
        for (int64_t e = 0; e < std::max<int64_t>(1, numbers) && missing_.size() < kMostMissing; ++e)
          expect(fmt::format("{}{}{}{}", prefix, entry.hf.substr(0, number), e, entry.hf.substr(number + 1)), shape, needed);
      } else {
        expect(prefix + std::string(entry.hf), entry.role == TensorRole::fused_experts && optional ? std::nullopt : shape,
               needed);
      }
    }
  }

  [[noreturn]] void refuse_missing() const {
    std::string cause = missing_.size() == 1 ? fmt::format("has no tensor '{}', which its config.json requires", missing_[0])
                                             : fmt::format("lacks {} tensors that its config.json requires: {}", missing_.size(),
                                                           listed(missing_));
    if (const std::string found = instead(); !found.empty()) cause += "; " + found;
    else cause += "; is the download complete, and is config.json of this model?";
    throw FormatError(where_, -1, cause);
  }

  /// What the file has instead of the missing tensors.
  std::string instead() const {
    const std::string& first = missing_.front();
    const std::string_view bare = std::string_view(first).substr(first.starts_with("model.") ? 6 : 0);
    for (const TensorInfo& t : tensors_.tensors()) {
      const std::string_view name = t.name;
      if (name.find(".lora_") != std::string_view::npos)
        return fmt::format(
            "'{}' is of a LoRA adapter: merge the adapter into its base model (peft: merge_and_unload) and save that", name);
      if (name == bare)
        return fmt::format("it has '{}', as AutoModel saves a model without its head: save it from AutoModelForCausalLM", name);
      if (name.ends_with("." + first))
        return fmt::format(
            "it has '{}': take '{}' off the names of its tensors, or save the model itself and not a wrapper around it", name,
            name.substr(0, name.size() - first.size()));
      if (name.ends_with(fmt::format(".{}", bare))) return fmt::format("it has '{}' instead", name);
    }
    if (first == "lm_head.weight")
      return "config.json does not tie the head to the embedding (tie_word_embeddings), and transformers would start from a "
             "random one";
    if (first == "model.embed_tokens.weight" && tensors_.find("lm_head.weight") && config_.flag("tie_word_embeddings", false))
      return "the head that is tied to it is there: save the model again with transformers, which writes the embedding";
    const std::string_view switched = first.find(".mlp.") != std::string::npos ? "mlp_bias" : kind_.computed.bias_key;
    if (first.ends_with("_proj.bias") && config_.find(switched) && config_.flag(switched))
      return fmt::format("its config.json has {} true: is it of this model?", switched);
    // What the model needs next to it is no part of it: the weight of a layer without its bias.
    const std::string module = first.substr(0, first.rfind('.') + 1);
    std::vector<std::string> parts;
    for (const TensorInfo& t : tensors_.tensors())
      if (t.name.starts_with(module) && !used_.contains(t.name)) parts.push_back(t.name);
    if (parts.empty()) return {};
    return fmt::format("it has {}, parts of a quantized weight that no quantization_config of its config.json explains",
                       listed(parts));
  }

  std::vector<std::string> unused() const {
    const Architecture architecture(config_.json());
    std::vector<std::string> names;
    for (const TensorInfo& t : tensors_.tensors()) {
      if (used_.contains(t.name) || t.name.ends_with("rotary_emb.inv_freq")) continue;
      const TensorRole role = architecture.role(t);
      // Layers that predict further tokens are a part of these models, though no stage runs them.
      const bool predicts = role == TensorRole::mtp && kind_.mixture == ModelKind::Mixture::leading_dense;
      const TensorName name = TensorName::parse(t.name);
      if (name.in_decoder() && use_of(kind_, name.rest, config_.json()) == TensorUse::needed)
        continue;  // no table has it, transformers does
      const bool other_head = !writes_text() && !name.in_decoder();
      if (!predicts && !other_head && role != TensorRole::quantization && role != TensorRole::fused_experts)
        names.push_back(t.name);
    }
    return names;
  }

  const JsonObject config_;
  const ModelKind& kind_;
  const Sizes sizes_;
  const TensorSource& tensors_;
  const std::filesystem::path& where_;
  const bool from_gguf_;
  std::vector<std::string> missing_;
  std::set<std::string, std::less<>> used_;
};

/// Of an unknown architecture: every layer has something.
void check_layers(const Architecture& architecture, const TensorSource& tensors, const std::filesystem::path& where) {
  std::set<int64_t> there;
  for (const TensorInfo& t : tensors.tensors()) {
    const TensorName name = TensorName::parse(t.name);
    const bool nested = name.list.find_first_of("0123456789") != std::string_view::npos;  // a list within an outer one
    if (name.layer >= 0 && !nested) there.insert(name.layer);
  }
  if (there.empty()) return;
  for (int64_t layer = 0; layer < architecture.layers(); ++layer)
    if (!there.contains(layer))
      throw FormatError(where, -1,
                        fmt::format("has no tensor of layer {}, though its config.json has {} layers; is the download complete?",
                                    layer, architecture.layers()));
}

/// Files that a clone without git-lfs did not fetch: no pointer is as long as a kilobyte.
void refuse_pointers(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file() && entry.file_size() < 1024) refuse_lfs_pointer(read_file(entry.path()), entry.path());
}

/// Where the files of a folder contradict each other, which one counts.
std::vector<std::string> contradictions(const Checkpoint& checkpoint) {
  const std::filesystem::path &folder = checkpoint.path, config = folder / "config.json";
  std::vector<std::string> notes;
  if (!std::filesystem::exists(config)) return notes;
  if (std::filesystem::exists(folder / kSafetensorsIndexName)) {
    if (std::filesystem::exists(folder / kSafetensorsName))
      notes.push_back(
          fmt::format("{} and {} are both there: the single file counts, as in transformers, and the shards are not read",
                      kSafetensorsName, kSafetensorsIndexName));
    else {
      const SafetensorsCheckpoint stored(folder);
      if (!stored.absent().empty()) notes.push_back(stored.absent());
      notes.insert(notes.end(), stored.notes().begin(), stored.notes().end());
    }
  }
  const Json written = read_python_json(config);
  if (written.value("tie_word_embeddings", Json()) == true && checkpoint.config->value("tie_word_embeddings", Json()) == false)
    notes.emplace_back(
        "config.json ties the head to the embedding, but the file has a head of other values: the head counts, as in "
        "transformers "
        "(tie_word_embeddings: false)");
  return notes;
}

}  // namespace

TensorUse use_of(const ModelKind& kind, std::string_view hf, const Json& config) {
  const JsonObject c(config, "config.json", "", JsonNull::absent);
  const auto by = [](bool used) { return used ? TensorUse::needed : TensorUse::unused; };
  const auto flag = [&](const char* key, bool fallback) { return by(c.flag(key, fallback)); };
  const ModelKind::Computed& facts = kind.computed;
  const auto key_flag = [&](std::string_view key, bool fallback) { return by(python_flag(c, key, fallback)); };
  const bool attention = hf.starts_with("self_attn."), bias = hf.ends_with(".bias");
  if (attention && bias) {
    const bool output = hf == "self_attn.o_proj.bias";
    if (output && facts.output_bias) return key_flag(facts.bias_key, facts.bias_left_out);
    if (output && !kind.latent_attention) return TensorUse::unused;
    if (facts.qkv_bias == ModelKind::Given::always) return TensorUse::needed;
    if (facts.qkv_bias == ModelKind::Given::never && !kind.latent_attention) return TensorUse::unused;
    return key_flag(facts.bias_key, facts.bias_left_out);
  }
  if (bias && hf.starts_with("mlp.")) return facts.mlp_bias ? flag("mlp_bias", false) : TensorUse::unused;
  if (facts.qk_norm == ModelKind::Given::by_config && attention &&
      (hf == "self_attn.q_norm.weight" || hf == "self_attn.k_norm.weight" ||
       hf.find("_layernorm.norms.") != std::string_view::npos))
    return key_flag(facts.qk_norm_key, false);
  if (kind.is(ModelKind::stablelm) && hf.starts_with("post_attention_layernorm."))
    return by(!c.flag("use_parallel_residual", false));
  if (kind.latent_attention && attention && hf.find("q_") == std::string_view("self_attn.").size()) {
    // Left out, the rank has transformers' default; null is none.
    const bool rank = !config.contains("q_lora_rank") || c.integer("q_lora_rank", 0, INT32_MAX, 0) > 0;
    return by(rank != (hf == "self_attn.q_proj.weight"));
  }
  if (hf.starts_with("mlp.shared_experts."))
    return by(c.integer("n_shared_experts", 0, INT32_MAX, std::max<int64_t>(0, kind.shared_experts)) > 0);
  return TensorUse::open;
}

std::vector<std::string> check_tensors(const Json& config, const TensorSource& tensors, const std::filesystem::path& where) {
  const Architecture architecture(config);
  const ModelKind* kind = find_model_kind(architecture.model_type());
  if (!kind) {
    check_layers(architecture, tensors, where);
    return {};
  }
  if (!config.contains("num_hidden_layers")) return {};
  return ModelChecker(config, *kind, tensors, where).run();
}

namespace {

/// Ids that end a text and that the model can never write, so that no text ends with them.
void note_end_ids(const std::filesystem::path& folder, int64_t rows, std::vector<std::string>& notes) {
  for (const char* name : {"config.json", "generation_config.json"}) {
    if (!std::filesystem::is_regular_file(folder / name)) continue;
    const Json config = read_python_json(folder / name);
    const Json given = config.is_object() ? config.value("eos_token_id", Json()) : Json();
    for (const Json& id : given.is_array() ? given : Json::array({given}))
      if (id.is_number_integer() && (id < 0 || id >= rows))
        notes.push_back(fmt::format("{}: eos_token_id {} is no id of the model's {}, so no text ends with it", name, id.dump(), rows));
  }
}

}  // namespace

std::vector<std::string> check_model(const Checkpoint& checkpoint) {
  refuse_pointers(checkpoint.path);
  const Json tokenizer = check_companion_files(checkpoint.path);
  if (checkpoint.tensors->tensors().empty()) throw FormatError(checkpoint.path, -1, "has no tensors");
  std::vector<std::string> notes = contradictions(checkpoint);
  if (const std::vector<std::string> unused = check_tensors(*checkpoint.config, *checkpoint.tensors, checkpoint.path);
      !unused.empty())
    notes.push_back(
        fmt::format("{} tensors are not used by the model that config.json describes: {}", unused.size(), listed(unused)));
  const TensorInfo* embedding = checkpoint.tensors->find("model.embed_tokens.weight");
  if (!embedding || embedding->shape.empty()) return notes;
  note_end_ids(checkpoint.path, embedding->shape[0], notes);
  try {
    check_token_ids(checkpoint.path, tokenizer, embedding->shape[0]);
  } catch (const FormatError& e) {
    // No stage runs a model of an unknown type, and some publish text models with the tokens of their multimodal ones.
    if (Architecture(*checkpoint.config).known()) throw;
    notes.emplace_back(e.what());
  }
  return notes;
}

}  // namespace overproof
