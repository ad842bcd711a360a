#pragma once
// Members of config.json for which null, or leaving them out, is not what it seems.

#include "core/json_object.h"
#include "formats/model_kinds.h"

namespace overproof {

/// null and left out can mean different defaults.
inline bool has_null(const JsonObject& o, std::string_view key) {
  const auto member = o.json().find(key);
  return member != o.json().end() && member->is_null();
}

/// A flag as transformers' classes test it: None is false, whatever the default of a flag that is left out.
inline bool python_flag(const JsonObject& o, std::string_view key, bool left_out) { return has_null(o, key) ? false : o.flag(key, left_out); }

/// Where such a class computes with the number itself, None is no default: it fails there. Throws FormatError.
inline void refuse_null(const JsonObject& o, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys)
    if (has_null(o, key)) o.fail(key, "is null, with which transformers cannot compute");
}

/// Throws FormatError where tokens see later ones, as in embedding models made from decoders: transformers' masks
/// (masking_utils.create_causal_mask) and Gemma's classes read these keys. With a null is_causal some of its attention functions do it.
inline void refuse_later_tokens(const JsonObject& config, const ModelKind& kind) {
  if (const auto causal = config.json().find("is_causal"); causal != config.json().end() && *causal != true)
    config.fail("is_causal", "is not true: tokens would see later ones, which is not supported");
  if (kind.is(ModelKind::gemma | ModelKind::gemma2 | ModelKind::gemma3_text) && config.flag("use_bidirectional_attention", false))
    config.fail("use_bidirectional_attention is not supported");
}

}  // namespace overproof
