#pragma once
// The chat templates of a model's folder, which may be in four places.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

inline constexpr const char* kDefaultTemplate = "default";

struct ChatTemplates {
  std::vector<std::pair<std::string, std::string>> named;  ///< name and text; the default first, the others by name
  std::string note;                                        ///< for the user, where two places disagree; else empty
  /// The text of the default; empty where there is none.
  std::string text() const;
};

/// As transformers 5.23 takes them (tokenization_utils_base.py): chat_template.jinja and additional_chat_templates/*.jinja where there are any,
/// else tokenizer_config.json's chat_template, a text or a list of names and texts. Where there are none of these, chat_template.json,
/// which only processors write and llama.cpp's converter reads. `config` is tokenizer_config.json. Throws IoError, FormatError.
ChatTemplates read_chat_templates(const std::filesystem::path& folder, const Json& config);

}  // namespace overproof
