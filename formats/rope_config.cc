#include "formats/rope_config.h"

#include <algorithm>
#include <iterator>

namespace overproof {

RopeConfig read_rope_config(const JsonObject& config, const ModelKind& kind) {
  const std::optional<JsonObject> scaling = config.find_object("rope_scaling");
  RopeConfig rope{Json::object(), "rope_parameters"};
  if (scaling && !scaling->json().empty()) rope = {scaling->json(), "rope_scaling"};
  else if (const auto parameters = config.find_object("rope_parameters")) rope.values = parameters->json();

  const JsonObject given(rope.values, config.origin(), rope.key, JsonNull::absent);
  const std::string type = given.text("rope_type", given.text("type", "default"));
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
  else if (const Json* most = config.find("max_position_embeddings"); most && !given.has(kOriginal)) rope.values[kOriginal] = *most;
  return rope;
}

}  // namespace overproof
