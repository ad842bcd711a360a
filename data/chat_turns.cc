#include "data/chat_turns.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/json.h"
#include "data/marked_text.h"

namespace overproof {
namespace {

// In place of messages. Words, which templates neither trim nor split.
constexpr std::string_view kQuestion = "overproofquestion", kAnswer = "overproofanswer", kNext = "overproofnext";

/// The id of a special token; -1 when the tokenizer has none of that text.
int32_t special_id(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids, true);
  return ids.size() == 1 && tokenizer.token_text(ids[0]) == text ? ids[0] : -1;
}

Json message(std::string_view role, std::string_view content) { return {{"role", role}, {"content", content}}; }

/// One rendered chat, cut at its messages.
class Rendering {
 public:
  Rendering(const ChatTemplate& chat_template, const MarkedEncoder& encoder, const Json& messages, bool add_generation_prompt)
      : encoder_(encoder),
        chat_(chat_template.render(Json{{"messages", messages}}.dump(), {int64_t(messages.size()), add_generation_prompt}).whole),
        origin_(chat_template.origin()) {}

  /// Bytes before `words`, which occurs once.
  size_t find(std::string_view words) const {
    const size_t at = chat_.text.find(words);
    if (at == std::string::npos || chat_.text.find(words, at + 1) != std::string::npos)
      throw MismatchError(fmt::format("{}: the chat template does not write each message once, so its turns are not known; sample without --chat",
                                      origin_.string()));
    return at;
  }
  size_t size() const { return chat_.text.size(); }
  const std::string& text() const { return chat_.text; }

  /// The ids of bytes [begin, end); of special ones also in `markers`.
  std::vector<int32_t> ids(size_t begin, size_t end, std::set<int32_t>* markers = nullptr) const {
    const std::string_view part = std::string_view(chat_.text).substr(begin, end - begin);
    std::vector<ByteRange> quoted;
    for (const ByteRange& range : chat_.quoted) {
      const ByteRange inside{std::max(range.begin, int64_t(begin)) - int64_t(begin), std::min(range.end, int64_t(end)) - int64_t(begin)};
      if (inside.begin < inside.end) quoted.push_back(inside);
    }
    if (markers)
      for (const MarkedEncoder::Part& found : encoder_.split(part, quoted))
        if (found.id >= 0) markers->insert(found.id);
    return encoder_.encode(part, quoted, {}, begin == 0).ids;
  }

 private:
  const MarkedEncoder& encoder_;
  RenderedChat chat_;
  const fs::path& origin_;
};

}  // namespace

ChatTurns chat_turns(const Tokenizer& tokenizer, const ChatTemplate& chat_template, std::string_view system, const std::set<int32_t>& ends) {
  const MarkedEncoder encoder(tokenizer);
  Json messages = Json::array();
  if (!system.empty()) messages.push_back(message("system", system));
  messages.push_back(message("user", kQuestion));
  ChatTurns turns;
  try {
    const Rendering asked(chat_template, encoder, messages, true);
    const size_t question = asked.find(kQuestion), begin = question + kQuestion.size();
    size_t open = question;
    while (open > 0 && asked.text()[open - 1] == ' ') --open;
    turns.opening = asked.ids(0, open, &turns.markers);
    std::set<int32_t> bridge, close;
    turns.bridge = asked.ids(begin, asked.size(), &bridge);
    if (bridge.empty() || turns.opening.empty())
      throw MismatchError(fmt::format("{}: the chat template has no special token {} a question, so a model would not know where it {}; sample "
                                      "without --chat",
                                      chat_template.origin().string(), bridge.empty() ? "after" : "before", bridge.empty() ? "ends" : "begins"));
    messages.push_back(message("assistant", kAnswer));
    const Rendering answered(chat_template, encoder, messages, false);
    turns.close = answered.ids(answered.find(kAnswer) + kAnswer.size(), answered.size(), &close);
    if (close.empty()) {
      messages.push_back(message("user", kNext));
      const Rendering continued(chat_template, encoder, messages, false);
      const size_t from = continued.find(kAnswer) + kAnswer.size(), to = continued.find(kNext);
      turns.close.clear();
      for (const int32_t id : continued.ids(from, std::max(from, to), &close)) {
        if (!close.contains(id)) continue;
        if (ends.contains(id)) turns.close = {id};
        break;
      }
    }
    turns.markers.merge(bridge);
    turns.markers.merge(close);
  } catch (const FormatError& e) {
    throw MismatchError(fmt::format("{}; sample without --chat{}", e.what(), system.empty() ? "" : ", or with --system '' if it takes no system turn"));
  }
  return turns;
}

std::vector<int32_t> chat_question(const Tokenizer& tokenizer, const ChatTemplate& chat_template, std::string_view text) {
  const RenderedChat chat = chat_template.render(Json{{"messages", Json::array({message("user", text)})}}.dump(), {1, true}).whole;
  return MarkedEncoder(tokenizer).encode(chat.text, chat.quoted, {}).ids;
}

int32_t text_begin_id(const Tokenizer& tokenizer) {
  const int32_t begin = tokenizer.bos_id();
  if (begin >= 0 && tokenizer.token_text(begin) != "<|im_start|>") return begin;
  if (const int32_t end = special_id(tokenizer, "<|endoftext|>"); end >= 0) return end;
  return begin >= 0 ? begin : tokenizer.eos_id();
}

}  // namespace overproof
