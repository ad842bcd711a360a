#include "formats/tensor_name.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace overproof {
namespace {

using Part = TensorName::Part;

/// Digits without a leading zero, below 10^9: two names never denote the same tensor.
std::optional<int64_t> number_in(std::string_view text) {
  if (text.empty() || text.size() > 9 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

constexpr std::string_view kLists[] = {"layers", "layer", "h", "blocks"};  // of layers, also in architectures that are guessed

constexpr std::pair<std::string_view, Part> kModules[] = {
    {"q_proj", Part::q},       {"k_proj", Part::k},   {"v_proj", Part::v},       {"o_proj", Part::o},
    {"gate_proj", Part::gate}, {"up_proj", Part::up}, {"down_proj", Part::down}, {"w1", Part::gate},
    {"w3", Part::up},          {"w2", Part::down},    {"gate", Part::router},    {"router", Part::router}};

}  // namespace

TensorName TensorName::parse(std::string_view name) {
  TensorName out;
  out.rest = name;
  std::string_view suffix, module, before;  // the last three parts so far
  size_t module_at = 0, suffix_at = 0;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    before = std::exchange(module, std::exchange(suffix, name.substr(at, dot - at)));
    module_at = std::exchange(suffix_at, at);
    if (const auto number = dot < name.size() ? number_in(suffix) : std::nullopt) {
      if (out.layer < 0 && std::ranges::find(kLists, module) != std::end(kLists)) {
        out.layer = *number;
        out.list = name.substr(0, at - 1);
        out.rest = name.substr(dot + 1);
      } else if (out.expert < 0 && module == "experts") {
        out.expert = *number;
        out.expert_prefix = name.substr(0, dot + 1);
      }
    }
    out.shared |= suffix == "shared_experts" || suffix == "shared_expert";
    at = dot + 1;
  }
  out.unit = name.substr(0, module_at == 0 ? 0 : module_at - 1);
  const size_t rest_at = name.size() - out.rest.size();
  if (out.unit.size() > rest_at) out.block = out.unit.substr(rest_at);
  if (suffix == "e_score_correction_bias" && module == "gate") out.part = Part::router_bias;
  if (suffix != "weight" && suffix != "bias") return out;
  out.bias = suffix == "bias";
  if (module == "layer" && before == "router") out.part = Part::router;  // granitemoe
  const auto known = std::ranges::find(kModules, module, &std::pair<std::string_view, Part>::first);
  if (known != std::end(kModules)) out.part = known->second;
  return out;
}

}  // namespace overproof
