#pragma once
// RoPE in config.json: in `rope_parameters` since transformers 5, in `rope_theta` and `rope_scaling` before.

#include <optional>
#include <string>

#include "core/json.h"
#include "core/json_object.h"
#include "formats/model_kinds.h"

namespace overproof {

struct RopeConfig {
  Json values;      ///< always with rope_type, rope_theta and partial_rotary_factor; without the older key `type`
  std::string key;  ///< the member of config.json that they come from, for messages
  JsonObject object(const std::filesystem::path& file) const { return {values, file, key, JsonNull::absent}; }
};

/// As transformers 5.23 reads it (modeling_rope_utils.py, RotaryEmbeddingConfigMixin): where both are given, all of `rope_scaling` counts
/// and nothing of `rope_parameters`; what it leaves out is taken from the top level, then from the architecture's defaults. A top-level
/// original_max_position_embeddings counts before that of the scaling. Throws FormatError for members of the wrong type.
RopeConfig read_rope_config(const JsonObject& config, const ModelKind& kind);

/// Of the layers with a sliding window, where the architecture gives them a RoPE of their own (Gemma 3).
std::optional<RopeConfig> read_window_rope_config(const JsonObject& config, const ModelKind& kind);

}  // namespace overproof
