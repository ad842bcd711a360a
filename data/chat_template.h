#pragma once
// The chat template of a model: Jinja, as in transformers, rendered in a bounded process (core/isolated.h).

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/isolated.h"
#include "data/jinja_engine.h"
#include "data/tokenizer.h"

namespace overproof {

class ChatTemplate {
 public:
  /// `tokens`: texts of bos_token, eos_token and others, by the name that templates use. `origin`: for messages.
  ChatTemplate(std::string source, std::map<std::string, std::string> tokens, fs::path origin, IsolationLimits limits = {});
  /// `conversation`: a JSON object with `messages` and all else that the template reads. Throws FormatError, with the template's
  /// own message where it refuses the conversation.
  RenderedPrefixes render(std::string_view conversation, const ChatPrefix& whole, const std::vector<ChatPrefix>& prefixes = {}) const;
  const std::string& source() const { return *source_; }
  const fs::path& origin() const { return origin_; }

 private:
  std::shared_ptr<const std::string> source_;
  std::map<std::string, std::string> tokens_;
  fs::path origin_;
  mutable IsolatedFunction renderer_;
};

/// The default template in a model's folder or GGUF file, with the texts of its special tokens; null where the model has none.
std::unique_ptr<ChatTemplate> open_chat_template(const fs::path& model, const Tokenizer& tokenizer);
/// The template in `file`, with the special tokens of `tokenizer`, which may be null. Throws IoError, FormatError.
std::unique_ptr<ChatTemplate> read_chat_template(const fs::path& file, const Tokenizer* tokenizer);

}  // namespace overproof
