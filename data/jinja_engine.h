#pragma once
// Jinja templates of chats, rendered by llama.cpp's engine (cmake/OverproofJinja.cmake) in this process. A template may be hostile, and
// the engine has no limits: data/chat_template.h renders in a bounded process, and is what everything else uses.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

/// Bytes [begin, end) of a text.
struct ByteRange {
  int64_t begin = 0, end = 0;
  bool operator==(const ByteRange&) const = default;
};

struct RenderedChat {
  std::string text;
  /// Ascending, not empty, none touches another: what came out of the conversation and not out of the template. A marker that is spelled
  /// out there is text.
  std::vector<ByteRange> quoted;
  std::vector<ByteRange> generated;  ///< what `{% generation %}` blocks made; the same
};

/// The first messages of a conversation, with or without the beginning of the assistant's answer.
struct ChatPrefix {
  int64_t messages = 0;
  bool add_generation_prompt = false;
};

struct RenderedPrefixes {
  bool marks_generation = false;  ///< the template has `{% generation %}` blocks
  RenderedChat whole;
  /// Of the prefixes, in their order: how many bytes each has, -1 where `whole` does not begin with them. Empty where the template marks
  /// generation, which gives the same without them.
  std::vector<int64_t> lengths;
};

/// `variables`: a JSON object with `messages` and all else that the template reads; its keys keep their order. Environment as in
/// transformers' apply_chat_template: trim_blocks, lstrip_blocks, raise_exception, strftime_now, tojson without escapes. Throws
/// std::exception with the engine's message. Of prefixes only the lengths are kept: memory grows with the conversation, time with the sum of
/// all that is rendered.
RenderedPrefixes render_jinja(std::string_view source, std::string_view variables, const ChatPrefix& whole, const std::vector<ChatPrefix>& prefixes);

}  // namespace overproof
