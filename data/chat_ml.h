#pragma once
// ChatML, the chat format of SmolLM2, Qwen and others: <|im_start|>ROLE newline TEXT <|im_end|> newline, where both markers are
// special tokens (OpenAI 2023).

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace overproof {

/// Makes the ids of turns. The markers are ids of their own; a marker that is spelled out in a text stays text.
class ChatMl {
 public:
  /// Nothing when the tokenizer has no <|im_start|> or no <|im_end|> token. `tokenizer` must outlive it.
  static std::optional<ChatMl> of(const Tokenizer& tokenizer);

  int32_t start() const { return start_; }
  int32_t end() const { return end_; }  ///< ends a turn
  /// Appends <|im_start|>ROLE newline TEXT: a turn that is not ended.
  void open(std::string_view role, std::string_view text, std::vector<int32_t>& ids) const;
  /// Appends <|im_end|> newline.
  void close(std::vector<int32_t>& ids) const;
  /// A user's turn with `text` and the beginning of the assistant's.
  std::vector<int32_t> question(std::string_view text) const;

 private:
  ChatMl(const Tokenizer& tokenizer, int32_t start, int32_t end) : tokenizer_(&tokenizer), start_(start), end_(end) {}
  const Tokenizer* tokenizer_;
  int32_t start_, end_;
};

/// The id that comes before a text in training: the beginning-of-text token, unless that is a chat marker (as in SmolLM2-Instruct),
/// else <|endoftext|>, else the end token; -1 when there is none.
int32_t text_begin_id(const Tokenizer& tokenizer);

}  // namespace overproof
