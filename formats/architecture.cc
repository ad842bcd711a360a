#include "formats/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>

#include "core/error.h"
#include "core/json.h"
#include "formats/quantization_config.h"

namespace overproof {
namespace {

constexpr int64_t kMaxExperts = 65'536;  // of one tensor: bounds the names that a hostile shape can ask for

/// '#' is a number of at most nine digits without leading zeros.
bool matches(std::string_view name, std::string_view pattern) {
  const size_t at = pattern.find('#');
  if (at == std::string_view::npos) return name == pattern;
  const std::string_view before = pattern.substr(0, at), behind = pattern.substr(at + 1);
  if (!name.starts_with(before) || !name.ends_with(behind) || name.size() <= before.size() + behind.size()) return false;
  const std::string_view number = name.substr(before.size(), name.size() - before.size() - behind.size());
  return number.size() <= 9 && (number == "0" || number.front() != '0') &&
         std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; });
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

Architecture::Architecture(const Json& config) {
  if (!config.is_object()) return;
  if (config.contains("model_type") && config["model_type"].is_string()) model_type_ = config["model_type"].get<std::string>();
  kind_ = find_model_kind(model_type_);
  layers_ = count_of(config, {"num_hidden_layers", "n_layer", "num_layers"});
  experts_ = count_of(config, {"n_routed_experts", "num_experts", "num_local_experts"});
  if (known()) return;
  std::vector<std::string_view> types;
  for (const ModelKind& k : model_kinds()) types.push_back(k.model_type);
  assumption_ = fmt::format(
      "model type '{}' is not one of {}: matrices called .weight inside numbered layers are taken for Linear weights, and those "
      "called gate or router{} for routers; embeddings, the head, vision and audio towers, norms, biases and tensors that stack "
      "experts are left unchanged",
      model_type_, fmt::join(types, ", "),
      experts_ > 0 ? fmt::format(", or has as many rows as there are experts ({}),", experts_) : "");
}

TensorRole Architecture::role(const TensorInfo& tensor) const {
  const std::string_view name = tensor.name;
  if (is_activation_parameter(name)) return TensorRole::quantization;
  const TensorName parsed = TensorName::parse(name);
  if (parsed.in_decoder() && layers_ >= 0 && parsed.layer >= layers_) return TensorRole::mtp;
  if (!known()) return guess(tensor);
  for (const TensorEntry& entry : parsed.in_decoder() ? layer_tensors() : model_tensors())
    if (kind_->is(entry.kinds) && matches(parsed.in_decoder() ? parsed.rest : name, entry.hf)) return entry.role;
  return TensorRole::other;
}

bool Architecture::stores_columns() const {
  constexpr std::string_view kTypes[] = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"};
  return std::ranges::find(kTypes, model_type_) != std::end(kTypes);
}

TensorRole Architecture::guess(const TensorInfo& tensor) const {
  const std::string_view name = tensor.name;
  if (name.starts_with("mtp.") || contains_any(name, {".mtp.", ".nextn."})) return TensorRole::mtp;
  if (contains_any(name, {"e_score_correction_bias", "expert_bias", "router_bias", "router.bias"}))
    return TensorRole::router_bias;
  if (contains_any(name, {"visual.", "vision", "audio", "image_"})) return TensorRole::other;
  if (stores_columns() && contains_any(name, {".c_attn.", ".q_attn.", ".c_proj.", ".c_fc."})) return TensorRole::other;
  if (name.ends_with("lm_head.weight") || name == "output.weight" || name == "embed_out.weight") return TensorRole::head;
  if (contains_any(name, {"embed_tokens", "embedding", "wte.", "wpe.", "embed_in"})) return TensorRole::embedding;
  const size_t dims = tensor.shape.size();
  if (dims <= 1) return contains_any(name, {"norm", "ln_"}) ? TensorRole::norm : TensorRole::other;
  if (dims == 3 && contains_any(name, {"expert", "moe"})) return TensorRole::fused_experts;
  if (dims != 2 || !name.ends_with(".weight") || tensor.elements() == 0) return TensorRole::other;
  if (TensorName::parse(name).layer < 0) return TensorRole::other;
  const bool of_expert = contains_any(name, {".experts."});
  const std::string_view module = name.substr(0, name.size() - std::string_view(".weight").size());
  const std::string_view last = module.substr(module.rfind('.') + 1);
  if (!of_expert && (last == "gate" || last == "shared_expert_gate" || last == "wg" || contains_any(name, {"router"})))
    return TensorRole::router;
  if (!of_expert && experts_ > 1 && tensor.shape[0] == experts_) return TensorRole::router;
  return of_expert ? TensorRole::expert_linear : TensorRole::linear;
}

std::vector<TensorPart> Architecture::split(const std::filesystem::path& file, const TensorInfo& tensor) const {
  const TensorName name = TensorName::parse(tensor.name);
  if (!known() || !name.in_decoder() ||
      (kind_->experts != ModelKind::Experts::by_projection && kind_->experts != ModelKind::Experts::by_number))
    return {};
  const bool gate_up = name.rest == "mlp.experts.gate_up_proj";
  if (!gate_up && name.rest != "mlp.experts.down_proj") return {};
  const auto refuse = [&](const std::string& cause) {
    throw FormatError(file, -1, fmt::format("'{}' [{}] {}", tensor.name, fmt::join(tensor.shape, ", "), cause));
  };
  if (tensor.shape.size() != 3 || tensor.elements() == 0) refuse("is not a stack of experts' matrices");
  if (tensor.shape[0] > kMaxExperts) refuse(fmt::format("has more than {} experts", kMaxExperts));
  if (experts_ >= 0 && tensor.shape[0] != experts_) refuse(fmt::format("does not have the {} experts of config.json", experts_));
  if (gate_up && tensor.shape[1] % 2 != 0) refuse("does not have as many gate rows as up rows");

  const int64_t rows = gate_up ? tensor.shape[1] / 2 : tensor.shape[1];
  std::vector<TensorPart> parts;
  for (int64_t e = 0; e < tensor.shape[0]; ++e) {
    const auto add = [&](TensorName::Part part, int64_t first) {
      parts.push_back({fmt::format("model.layers.{}.{}", name.layer, expert_tensor_name(*kind_, e, part)), e, first, rows});
    };
    if (gate_up) {
      add(TensorName::Part::gate, 0);
      add(TensorName::Part::up, rows);
    } else {
      add(TensorName::Part::down, 0);
    }
  }
  return parts;
}

std::string Architecture::saved_name(std::string_view tensor) const {
  const TensorName name = TensorName::parse(tensor);
  if (known() && kind_->experts == ModelKind::Experts::by_number && name.in_decoder() && name.rest == "mlp.gate.weight")
    return fmt::format("model.layers.{}.block_sparse_moe.gate.weight", name.layer);
  return std::string(tensor);
}

}  // namespace overproof
