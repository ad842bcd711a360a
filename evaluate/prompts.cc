#include "evaluate/prompts.h"

#include <algorithm>

#include "core/error.h"
#include "data/chat_turns.h"

namespace overproof {

const std::vector<EvaluationPrompt>& evaluation_prompts() {
  static const std::vector<EvaluationPrompt> prompts = {
      {"The capital of France is", false},
      {"What is the largest planet in the solar system?", true},
      {"Once upon a time, in a village by the sea, there lived", false},
      {"Explain in simple words why the sky is blue.", true},
      {"The main difference between a bicycle and a motorcycle is", false},
      {"Give me three tips for sleeping better.", true},
      {"To make a cup of tea, first", false},
      {"Write a short poem about autumn.", true},
      {"def fibonacci(n):\n", false},
      {"How do I boil an egg?", true},
      {"In 1969, the first people landed on the Moon.", false},
      {"Translate 'good morning' into French.", true},
      {"The doctor looked at the results and", false},
      {"What should I pack for a weekend in the mountains?", true},
      {"Water boils at 100 degrees Celsius because", false},
      {"Write a polite email that asks for a day off.", true},
      {"Dear Sir or Madam,\n\nI am writing to", false},
      {"Who wrote Romeo and Juliet, and what is it about?", true},
      {"The most important thing about learning a language is", false},
      {"What is 12 plus 30?", true}};
  return prompts;
}

std::vector<std::vector<int32_t>> prompt_ids(const Tokenizer& tokenizer, const ChatTemplate* chat_template, int64_t count) {
  OVERPROOF_CHECK(count >= 0 && count <= int64_t(evaluation_prompts().size()));
  std::vector<std::vector<int32_t>> all;
  for (int64_t i = 0; i < count; ++i) {
    const EvaluationPrompt& prompt = evaluation_prompts()[size_t(i)];
    if (prompt.chat && chat_template) {
      all.push_back(chat_question(tokenizer, *chat_template, prompt.text));
    } else {
      tokenizer.encode(prompt.text, all.emplace_back());
    }
  }
  return all;
}

}  // namespace overproof
