#pragma once
// What `evaluate` asks a model, to see whether its text is usable: fixed prompts, general ones, of different kinds.

#include <cstdint>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace overproof {

inline constexpr int64_t kPrompts = 20;

struct EvaluationPrompt {
  std::string text;
  bool chat = false;
};

/// All prompts: every other one a question for a chat turn, the others beginnings of texts.
const std::vector<EvaluationPrompt>& evaluation_prompts();

/// The ids of the first `count`: a question in a turn of the chat template, where there is one, else as plain text.
std::vector<std::vector<int32_t>> prompt_ids(const Tokenizer& tokenizer, const ChatTemplate* chat_template, int64_t count);

}  // namespace overproof
