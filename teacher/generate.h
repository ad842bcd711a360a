#pragma once
// `overproof generate`: text from any checkpoint, token by token with a key-value cache.

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/answer.h"
#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct GenerateConfig {
  std::string prompt;
  int64_t max_tokens = 128, seed = 0;
  double temperature = 0.0, top_p = 1.0, repetition_penalty = 0.0;
  fs::path watermark_key;
  double watermark_strength = 2.0;
  bool chat = false;
  std::string message, system;
  fs::path chat_template;
  template <class V>
  void visit(V&& v) {
    v("prompt", prompt, any_value(), "text to continue");
    v("max-tokens", max_tokens, in_range(1, 1 << 20), "largest number of tokens; an end-of-text token ends the text earlier");
    v("temperature", temperature, in_range(0, 20), "divides the logits; 0: always the most probable token");
    v("top-p", top_p, in_range(1e-6, 1), "draw from the most probable tokens that together reach this probability");
    v("repetition-penalty", repetition_penalty, in_range(0, 100),
      "divides the positive logits of tokens that the text already has, and multiplies the negative ones; 1: none; 0: what the model's "
      "generation_config.json or GGUF states, else 1");
    v("seed", seed, seed_value(), "seed of the draws");
    v("watermark-key", watermark_key, any_value(),
      "plant the watermark of this key, a file made by `watermark-key`");
    v("watermark-strength", watermark_strength, in_range(0, 20), "added to the logits of green tokens");
    v("chat", chat, any_value(),
      "hold a conversation with the model's own chat template: with --message or --prompt one turn, else every line of standard input is one");
    v("message", message, any_value(), "chat: the user's message");
    v("system", system, any_value(), "chat: a system message before the user's first");
    v("chat-template", chat_template, any_value(), "chat: a Jinja file, instead of the model's template");
  }
};

/// Takes text while it is generated.
using TextSink = std::function<void(std::string_view)>;

/// The user's next message; nothing at the end of the conversation.
using MessageSource = std::function<std::optional<std::string>()>;

/// The prompt and the text go to `write` as they come, unless it is empty; then the text is in the answer. With option `chat` and neither
/// a prompt nor a message, `next_message` is asked for one after each answer. Throws DivergenceError when logits are not finite,
/// FormatError when the chat template refuses the conversation, MismatchError when the model has none.
Answer run_generate(const GenerateConfig& config, const fs::path& model, const TextSink& write = {}, const MessageSource& next_message = {});

}  // namespace overproof
