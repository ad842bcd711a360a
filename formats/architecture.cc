#include "formats/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <span>

#include "core/error.h"
#include "core/json.h"
#include "formats/quantization_config.h"

namespace overproof {
namespace {

constexpr int64_t kMaxExperts = 65'536;  // of one tensor: bounds the names that a hostile shape can ask for

/// What follows "model.layers.N."; '#' stands for an expert's number.
struct Entry {
  std::string_view name;
  TensorRole role;
};

constexpr Entry kCommon[] = {{"input_layernorm.weight", TensorRole::norm},
                             {"post_attention_layernorm.weight", TensorRole::norm},
                             {"self_attn.o_proj.weight", TensorRole::linear}};
constexpr Entry kAttention[] = {{"self_attn.q_proj.weight", TensorRole::linear},
                                {"self_attn.k_proj.weight", TensorRole::linear},
                                {"self_attn.v_proj.weight", TensorRole::linear}};
constexpr Entry kQkNorm[] = {{"self_attn.q_norm.weight", TensorRole::norm}, {"self_attn.k_norm.weight", TensorRole::norm}};
/// Multi-head latent attention: queries, keys and values pass a narrow layer; q_proj when config.q_lora_rank is null.
constexpr Entry kLatentAttention[] = {{"self_attn.q_proj.weight", TensorRole::linear},
                                      {"self_attn.q_a_proj.weight", TensorRole::linear},
                                      {"self_attn.q_a_layernorm.weight", TensorRole::norm},
                                      {"self_attn.q_b_proj.weight", TensorRole::linear},
                                      {"self_attn.kv_a_proj_with_mqa.weight", TensorRole::linear},
                                      {"self_attn.kv_a_layernorm.weight", TensorRole::norm},
                                      {"self_attn.kv_b_proj.weight", TensorRole::linear}};
constexpr Entry kDense[] = {{"mlp.gate_proj.weight", TensorRole::linear},
                            {"mlp.up_proj.weight", TensorRole::linear},
                            {"mlp.down_proj.weight", TensorRole::linear}};
constexpr Entry kExperts[] = {{"mlp.gate.weight", TensorRole::router},
                              {"mlp.experts.#.gate_proj.weight", TensorRole::expert_linear},
                              {"mlp.experts.#.up_proj.weight", TensorRole::expert_linear},
                              {"mlp.experts.#.down_proj.weight", TensorRole::expert_linear},
                              {"mlp.experts.gate_up_proj", TensorRole::fused_experts},
                              {"mlp.experts.down_proj", TensorRole::fused_experts}};
constexpr Entry kRouterBias[] = {{"mlp.gate.e_score_correction_bias", TensorRole::router_bias}};
constexpr Entry kSharedExperts[] = {{"mlp.shared_experts.gate_proj.weight", TensorRole::linear},
                                    {"mlp.shared_experts.up_proj.weight", TensorRole::linear},
                                    {"mlp.shared_experts.down_proj.weight", TensorRole::linear}};
constexpr Entry kSharedExpert[] = {{"mlp.shared_expert.gate_proj.weight", TensorRole::linear},
                                   {"mlp.shared_expert.up_proj.weight", TensorRole::linear},
                                   {"mlp.shared_expert.down_proj.weight", TensorRole::linear},
                                   {"mlp.shared_expert_gate.weight", TensorRole::router}};
/// w1 is the gate, w3 up, w2 down. In memory the block is called mlp, and so it is in files with fused experts.
constexpr Entry kMixtral[] = {{"block_sparse_moe.gate.weight", TensorRole::router},
                              {"block_sparse_moe.experts.#.w1.weight", TensorRole::expert_linear},
                              {"block_sparse_moe.experts.#.w2.weight", TensorRole::expert_linear},
                              {"block_sparse_moe.experts.#.w3.weight", TensorRole::expert_linear},
                              {"mlp.gate.weight", TensorRole::router},
                              {"mlp.experts.gate_up_proj", TensorRole::fused_experts},
                              {"mlp.experts.down_proj", TensorRole::fused_experts}};
/// The last three are the names in memory.
constexpr Entry kGraniteMoe[] = {{"block_sparse_moe.router.layer.weight", TensorRole::router},
                                 {"block_sparse_moe.input_linear.weight", TensorRole::fused_experts},
                                 {"block_sparse_moe.output_linear.weight", TensorRole::fused_experts},
                                 {"block_sparse_moe.router.weight", TensorRole::router},
                                 {"block_sparse_moe.experts.gate_up_proj", TensorRole::fused_experts},
                                 {"block_sparse_moe.experts.down_proj", TensorRole::fused_experts}};

enum class Experts { none, stay_fused, by_projection, by_number };  // names of an expert's matrices: gate_proj, or w1

struct Kind {
  std::string_view model_type;
  std::initializer_list<std::span<const Entry>> entries;
  Experts experts = Experts::none;
};

const Kind kKinds[] = {
    {"llama", {kCommon, kAttention, kDense}},
    {"mistral", {kCommon, kAttention, kDense}},
    {"qwen2", {kCommon, kAttention, kDense}},
    {"qwen3", {kCommon, kAttention, kQkNorm, kDense}},
    {"qwen2_moe", {kCommon, kAttention, kDense, kExperts, kSharedExpert}, Experts::by_projection},
    {"qwen3_moe", {kCommon, kAttention, kQkNorm, kDense, kExperts}, Experts::by_projection},
    {"mixtral", {kCommon, kAttention, kMixtral}, Experts::by_number},
    {"glm4_moe", {kCommon, kAttention, kQkNorm, kDense, kExperts, kRouterBias, kSharedExperts}, Experts::by_projection},
    {"deepseek_v3", {kCommon, kLatentAttention, kDense, kExperts, kRouterBias, kSharedExperts}, Experts::by_projection},
    {"granitemoe", {kCommon, kAttention, kGraniteMoe}, Experts::stay_fused},
};

constexpr Entry kWholeModel[] = {{"model.embed_tokens.weight", TensorRole::embedding},
                                 {"model.norm.weight", TensorRole::norm},
                                 {"lm_head.weight", TensorRole::head}};

size_t digits(std::string_view text) { return std::min(text.find_first_not_of("0123456789"), text.size()); }

bool matches(std::string_view name, std::string_view pattern) {
  const size_t number = pattern.find('#');
  if (number == std::string_view::npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, number))) return false;
  name.remove_prefix(number);
  const size_t n = digits(name);
  return n > 0 && name.substr(n) == pattern.substr(number + 1);
}

struct InLayer {
  int64_t layer = 0;
  std::string_view rest;
};

/// Cuts "<prefix>N." off; nullopt when the name does not begin so.
std::optional<InLayer> in_layer(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  const size_t n = digits(name);
  if (n == 0 || n > 9 || n == name.size() || name[n] != '.') return std::nullopt;
  return InLayer{std::stoll(std::string(name.substr(0, n))), name.substr(n + 1)};
}

/// A count that the config, or the config of its text model, gives under one of several names.
int64_t count_of(const Json& config, std::initializer_list<const char*> keys) {
  for (const Json* place : {&config, config.contains("text_config") ? &config["text_config"] : &config}) {
    for (const char* key : keys) {
      if (place->is_object() && place->contains(key) && (*place)[key].is_number_integer() && (*place)[key] >= 0)
        return (*place)[key].get<int64_t>();
    }
  }
  return -1;
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::ranges::any_of(parts, [&](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

}  // namespace

std::string_view role_name(TensorRole role) {
  switch (role) {
    case TensorRole::linear:
      return "linear";
    case TensorRole::expert_linear:
      return "expert_linear";
    case TensorRole::fused_experts:
      return "fused_experts";
    case TensorRole::router:
      return "router";
    case TensorRole::router_bias:
      return "router_bias";
    case TensorRole::norm:
      return "norm";
    case TensorRole::embedding:
      return "embedding";
    case TensorRole::head:
      return "head";
    case TensorRole::mtp:
      return "mtp";
    case TensorRole::quantization:
      return "quantization";
    case TensorRole::other:
      return "other";
  }
  return "?";
}

Architecture::Architecture(const Json& config) {
  if (!config.is_object()) return;
  if (config.contains("model_type") && config["model_type"].is_string()) model_type_ = config["model_type"].get<std::string>();
  const auto kind = std::ranges::find(kKinds, model_type_, &Kind::model_type);
  if (kind != std::end(kKinds)) kind_ = int(kind - std::begin(kKinds));
  layers_ = count_of(config, {"num_hidden_layers", "n_layer", "num_layers"});
  experts_ = count_of(config, {"n_routed_experts", "num_experts", "num_local_experts"});
  if (known()) return;
  std::vector<std::string_view> types;
  for (const Kind& k : kKinds) types.push_back(k.model_type);
  assumption_ = fmt::format(
      "model type '{}' is not one of {}: matrices called .weight inside numbered layers are taken for Linear weights; what is "
      "called gate or "
      "router{} for a router; embeddings, the head, vision and audio towers, norms, biases and tensors that stack experts are "
      "left alone",
      model_type_, fmt::join(types, ", "),
      experts_ > 0 ? fmt::format(", or has as many rows as there are experts ({}),", experts_) : "");
}

TensorRole Architecture::role(const TensorInfo& tensor) const {
  const std::string_view name = tensor.name;
  if (is_activation_parameter(name)) return TensorRole::quantization;
  const auto layer = in_layer(name, "model.layers.");
  if (layer && layers_ >= 0 && layer->layer >= layers_) return TensorRole::mtp;
  if (!known()) return guess(tensor);
  if (!layer) {
    const auto entry = std::ranges::find(kWholeModel, name, &Entry::name);
    return entry == std::end(kWholeModel) ? TensorRole::other : entry->role;
  }
  for (const std::span<const Entry> entries : kKinds[kind_].entries) {
    for (const Entry& entry : entries)
      if (matches(layer->rest, entry.name)) return entry.role;
  }
  return TensorRole::other;
}

TensorRole Architecture::guess(const TensorInfo& tensor) const {
  const std::string_view name = tensor.name;
  if (name.starts_with("mtp.") || contains_any(name, {".mtp.", ".nextn."})) return TensorRole::mtp;
  if (contains_any(name, {"e_score_correction_bias", "expert_bias", "router_bias", "router.bias"}))
    return TensorRole::router_bias;
  if (contains_any(name, {"visual.", "vision", "audio", "image_"})) return TensorRole::other;
  if (name.ends_with("lm_head.weight") || name == "output.weight" || name == "embed_out.weight") return TensorRole::head;
  if (contains_any(name, {"embed_tokens", "embedding", "wte.", "wpe.", "embed_in"})) return TensorRole::embedding;
  const size_t dims = tensor.shape.size();
  if (dims <= 1) return contains_any(name, {"norm", "ln_"}) ? TensorRole::norm : TensorRole::other;
  if (dims == 3 && contains_any(name, {"expert", "moe"})) return TensorRole::fused_experts;
  if (dims != 2 || !name.ends_with(".weight") || tensor.elements() == 0) return TensorRole::other;
  bool in_layers = false;
  for (const std::string_view list : {"layers.", "layer.", "h.", "blocks."}) {
    for (size_t at = name.find(list); at != std::string_view::npos; at = name.find(list, at + 1)) {
      in_layers |= (at == 0 || name[at - 1] == '.') && in_layer(name.substr(at), list).has_value();
    }
  }
  if (!in_layers) return TensorRole::other;
  const bool of_expert = contains_any(name, {".experts."});
  const std::string_view module = name.substr(0, name.size() - std::string_view(".weight").size());
  const std::string_view last = module.substr(module.rfind('.') + 1);
  if (!of_expert && (last == "gate" || last == "shared_expert_gate" || last == "wg" || contains_any(name, {"router"})))
    return TensorRole::router;
  if (!of_expert && experts_ > 1 && tensor.shape[0] == experts_) return TensorRole::router;
  return of_expert ? TensorRole::expert_linear : TensorRole::linear;
}

std::vector<TensorPart> Architecture::split(const std::filesystem::path& file, const TensorInfo& tensor) const {
  if (!known() || kKinds[kind_].experts == Experts::none || kKinds[kind_].experts == Experts::stay_fused) return {};
  const auto layer = in_layer(tensor.name, "model.layers.");
  if (!layer) return {};
  const bool gate_up = layer->rest == "mlp.experts.gate_up_proj";
  if (!gate_up && layer->rest != "mlp.experts.down_proj") return {};
  const auto refuse = [&](const std::string& cause) {
    throw FormatError(file, -1, fmt::format("'{}' [{}] {}", tensor.name, fmt::join(tensor.shape, ", "), cause));
  };
  if (tensor.shape.size() != 3 || tensor.elements() == 0) refuse("is no stack of experts' matrices");
  if (tensor.shape[0] > kMaxExperts) refuse(fmt::format("has more than {} experts", kMaxExperts));
  if (experts_ >= 0 && tensor.shape[0] != experts_) refuse(fmt::format("does not have the {} experts of config.json", experts_));
  if (gate_up && tensor.shape[1] % 2 != 0) refuse("does not hold as many gate rows as up rows");

  const bool numbered = kKinds[kind_].experts == Experts::by_number;
  const std::string experts = fmt::format("model.layers.{}.{}.experts", layer->layer, numbered ? "block_sparse_moe" : "mlp");
  const int64_t rows = gate_up ? tensor.shape[1] / 2 : tensor.shape[1];
  std::vector<TensorPart> parts;
  for (int64_t e = 0; e < tensor.shape[0]; ++e) {
    const auto name = [&](std::string_view projection, std::string_view number) {
      return fmt::format("{}.{}.{}.weight", experts, e, numbered ? number : projection);
    };
    if (gate_up) {
      parts.push_back({name("gate_proj", "w1"), e, 0, rows});
      parts.push_back({name("up_proj", "w3"), e, rows, rows});
    } else {
      parts.push_back({name("down_proj", "w2"), e, 0, rows});
    }
  }
  return parts;
}

std::string Architecture::saved_name(std::string_view tensor) const {
  const auto layer = in_layer(tensor, "model.layers.");
  if (known() && kKinds[kind_].experts == Experts::by_number && layer && layer->rest == "mlp.gate.weight") {
    return fmt::format("model.layers.{}.block_sparse_moe.gate.weight", layer->layer);
  }
  return std::string(tensor);
}

}  // namespace overproof
