#include "formats/rope_config.h"

#include <algorithm>
#include <iterator>

namespace overproof {

namespace {

/// Gemma 3 has one of each type of layers in rope_parameters; before transformers 5, the keys of the top level.
RopeConfig of_layers(const JsonObject& config, const ModelKind& kind, const char* type, const char* theta_key, double theta) {
  RopeConfig rope{Json::object(), std::string("rope_parameters.") + type};
  if (const auto parameters = config.find_object("rope_parameters"))
    if (const auto of_type = parameters->find_object(type)) rope.values = of_type->json();
  if (std::string_view(type) == "full_attention")
    if (const auto scaling = config.find_object("rope_scaling")) rope.values.update(scaling->json());
  const JsonObject given(rope.values, config.origin(), rope.key, JsonNull::absent);
  const std::string rope_type = given.text("rope_type", given.text("type", "default"));
  const double own = given.number("rope_theta", config.number(theta_key, theta));
  const double part = given.number("partial_rotary_factor", config.number("partial_rotary_factor", kind.rotary_part));
  rope.values["rope_type"] = rope_type;
  rope.values["rope_theta"] = own;
  rope.values["partial_rotary_factor"] = part;
  rope.values.erase("type");
  return rope;
}

}  // namespace

std::optional<RopeConfig> read_window_rope_config(const JsonObject& config, const ModelKind& kind) {
  if (!kind.is(ModelKind::gemma3_text)) return std::nullopt;
  return of_layers(config, kind, "sliding_attention", "rope_local_base_freq", 10000.0);
}

RopeConfig read_rope_config(const JsonObject& config, const ModelKind& kind) {
  if (kind.is(ModelKind::gemma3_text)) return of_layers(config, kind, "full_attention", "rope_theta", kind.rope_theta);
  const std::optional<JsonObject> scaling = config.find_object("rope_scaling");
  RopeConfig rope{Json::object(), "rope_parameters"};
  if (scaling && !scaling->json().empty()) rope = {scaling->json(), "rope_scaling"};
  else if (const auto parameters = config.find_object("rope_parameters")) rope.values = parameters->json();

  const JsonObject given(rope.values, config.origin(), rope.key, JsonNull::absent);
  std::string type = given.text("rope_type", given.text("type", "default"));
  if (kind.is(ModelKind::phi3) && (type == "su" || type == "yarn")) type = "longrope";  // its names before transformers 4.43
  const double theta = given.number("rope_theta", config.number("rope_theta", kind.rope_theta));
  const double part = given.number("partial_rotary_factor", config.number("partial_rotary_factor", kind.rotary_part));
  rope.values["rope_type"] = type;
  rope.values["rope_theta"] = theta;
  rope.values["partial_rotary_factor"] = part;
  rope.values.erase("type");
  static constexpr const char* kScaled[] = {"llama3", "yarn", "longrope"};
  constexpr const char* kOriginal = "original_max_position_embeddings";
  if (std::ranges::find(kScaled, type) == std::end(kScaled)) return rope;
  if (const Json* original = config.find(kOriginal)) rope.values[kOriginal] = *original;
  else if (kind.computed.original_positions > 0) rope.values[kOriginal] = kind.computed.original_positions;
  else if (const Json* most = config.find("max_position_embeddings"); most && !given.has(kOriginal))
    rope.values[kOriginal] = *most;
  return rope;
}

}  // namespace overproof
