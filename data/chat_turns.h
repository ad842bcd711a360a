#pragma once
// The turns of a chat as a model's template writes them, in ids: for chats of which the model writes the questions as well, and for
// fixed questions.

#include <cstdint>
#include <set>
#include <string_view>
#include <vector>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace overproof {

struct ChatTurns {
  std::vector<int32_t> opening;  ///< of a chat, up to and with an open user turn
  std::vector<int32_t> bridge;   ///< from the end of a question to the beginning of the answer: the generation prompt with what is before it
  std::vector<int32_t> close;    ///< behind an answer, with the token that ends it; empty where neither template nor model has one
  std::set<int32_t> markers;     ///< the special tokens of all three: what a model draws where it ends a turn
};

/// The turns of a chat with one question, after a system turn unless `system` is empty. Where the template writes nothing that ends an answer
/// (as that of glm4_moe), it is the marker before the next question if it is one of `ends` (turn_end_ids() of data/chat_document.h). Spaces at the end of the opening
/// are left out, for tokens have them at their beginning. Throws MismatchError for a template that refuses such a chat or changes its messages, and for one that
/// writes no special token after a question: a model could not end it.
ChatTurns chat_turns(const Tokenizer& tokenizer, const ChatTemplate& chat_template, std::string_view system, const std::set<int32_t>& ends);

/// A user's turn with `text` and the beginning of the assistant's. Throws FormatError where the template refuses it.
std::vector<int32_t> chat_question(const Tokenizer& tokenizer, const ChatTemplate& chat_template, std::string_view text);

/// The id that comes before a text in training: the beginning-of-text token, unless that is a chat marker (as in SmolLM2-Instruct),
/// else <|endoftext|>, else the end token; -1 when there is none.
int32_t text_begin_id(const Tokenizer& tokenizer);

}  // namespace overproof
