#include "data/chat_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/python_json.h"
#include "formats/generation_config.h"

namespace overproof {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

bool is_blank(std::string_view text) { return text.find_first_not_of(kSpace) == text.npos; }

/// The bytes at the beginning that are an empty <think></think> block with the white space behind it.
size_t empty_thoughts(std::string_view text) {
  constexpr std::string_view kBegin = "<think>", kEnd = "</think>";
  if (!text.starts_with(kBegin)) return 0;
  const size_t end = text.find(kEnd);
  if (end == text.npos || !is_blank(text.substr(kBegin.size(), end - kBegin.size()))) return 0;
  return std::min(text.find_first_not_of(kSpace, end + kEnd.size()), text.size());
}

/// Whether one of the ranges holds a byte of [begin, end).
bool touches(const std::vector<ByteRange>& ranges, int64_t begin, int64_t end) {
  return std::ranges::any_of(ranges, [&](const ByteRange& r) { return r.begin < end && begin < r.end; });
}

}  // namespace

ChatDocuments::ChatDocuments(const Tokenizer& tokenizer, std::unique_ptr<ChatTemplate> chat_template, std::set<int32_t> ends, int32_t separator,
                             TrainedTurns turns)
    : encoder_(tokenizer), template_(std::move(chat_template)), ends_(std::move(ends)), separator_(separator), turns_(turns) {}

MarkedDocument ChatDocuments::read(std::string_view line, const fs::path& file, int64_t offset) const {
  const ChatRecord record = read_chat_record(line, file, offset);
  if (!record.conversation.empty()) return render(record, file, offset);
  MarkedDocument document;
  document.text = record.prompt + record.completion;
  const auto size = int64_t(document.text.size());
  document.quoted = {{0, size}};
  document.trained = {{int64_t(record.prompt.size()), size + 1}};
  return document;
}

MarkedDocument ChatDocuments::render(const ChatRecord& record, const fs::path& file, int64_t offset) const {
  if (!template_)
    throw FormatError(file, offset, "is a conversation, and the tokenizer's model has no chat template; give one with --chat-template");
  std::vector<int64_t> answers = record.answers;
  if (turns_ == TrainedTurns::last) answers = {answers.back()};
  std::vector<ChatPrefix> prefixes;
  for (const int64_t i : answers) prefixes.push_back({i, true}), prefixes.push_back({i + 1, false});
  RenderedPrefixes rendered;
  try {
    rendered = template_->render(record.conversation, {record.messages, false}, prefixes);
  } catch (const FormatError& e) {
    throw FormatError(file, offset, e.what());
  }
  const bool by_blocks = rendered.marks_generation;
  RenderedChat& whole = rendered.whole;
  MarkedDocument document{std::move(whole.text), std::move(whole.quoted), {}};
  std::vector<ByteRange> turns = std::move(whole.generated);
  if (by_blocks && answers != record.assistants) {
    if (turns.size() != record.assistants.size())
      throw FormatError(file, offset,
                        fmt::format("the chat template has {} generation blocks for {} messages of the assistant, so it is not known which of "
                                    "them is not trained",
                                    turns.size(), record.assistants.size()));
    std::vector<ByteRange> kept;
    for (size_t i = 0; i < turns.size(); ++i)
      if (std::ranges::binary_search(answers, record.assistants[i])) kept.push_back(turns[i]);
    turns = std::move(kept);
  }
  for (size_t i = 0; !by_blocks && i < answers.size(); ++i) {
    const int64_t before = rendered.lengths[2 * i], after = rendered.lengths[2 * i + 1];
    const bool last = answers[i] + 1 == record.messages;
    if (before < 0 || after < before || (last && after != int64_t(document.text.size())))
      throw FormatError(file, offset,
                        fmt::format("the chat template renders the assistant's message {} otherwise in the whole conversation than at its end "
                                    "or after its generation prompt, so it is not known what a model should learn; {}",
                                    answers[i], last ? "give a template for training with --chat-template" : "try --train-turns last"));
    turns.push_back({before, after});
  }
  require_own_markers(record, document, file, offset);
  end_turns(document, std::move(turns), file, offset);
  return document;
}

/// The engine does not follow every byte of a message through every filter. So where a message spells special tokens, the conversation is
/// rendered once more with other letters in their place: the template must have written the same special tokens.
void ChatDocuments::require_own_markers(const ChatRecord& record, const MarkedDocument& document, const fs::path& file, int64_t offset) const {
  nlohmann::ordered_json conversation = nlohmann::ordered_json::parse(record.conversation);
  bool spelled = false;
  const std::function<void(nlohmann::ordered_json&)> replace = [&](nlohmann::ordered_json& value) {
    if (value.is_structured()) {
      for (auto& member : value) replace(member);
    } else if (value.is_string()) {
      auto& text = value.get_ref<std::string&>();
      for (const MarkedEncoder::Part& part : encoder_.split(std::string(text), {})) {
        if (part.id < 0) continue;
        std::fill(text.begin() + part.bytes.begin, text.begin() + part.bytes.end, 'x');
        spelled = true;
      }
    }
  };
  replace(conversation);
  if (!spelled) return;
  const RenderedChat neutral = template_->render(conversation.dump(), {record.messages, false}).whole;
  const auto markers = [&](const std::string& text, const std::vector<ByteRange>& quoted) {
    std::vector<int32_t> ids;
    for (const MarkedEncoder::Part& part : encoder_.split(text, quoted))
      if (part.id >= 0) ids.push_back(part.id);
    return ids;
  };
  if (markers(document.text, document.quoted) != markers(neutral.text, neutral.quoted))
    throw FormatError(file, offset,
                      "a message spells a special token, and the chat template puts it where it cannot be distinguished from the template's own; leave the "
                      "conversation out, or change the message");
}

void ChatDocuments::end_turns(MarkedDocument& document, std::vector<ByteRange> turns, const fs::path& file, int64_t offset) const {
  const std::string_view text = document.text;
  const auto size = int64_t(text.size());
  const std::vector<MarkedEncoder::Part> parts = encoder_.split(text, document.quoted);
  size_t at = 0;
  for (ByteRange turn : turns) {
    const std::string_view all = text.substr(size_t(turn.begin), size_t(turn.end - turn.begin));
    if (const auto skipped = int64_t(empty_thoughts(all)); skipped > 0 && !touches(document.quoted, turn.begin, turn.begin + 15))
      turn.begin += skipped;
    while (at < parts.size() && parts[at].bytes.end < turn.end) ++at;
    // The last special token in the turn, if only white space is behind it.
    const auto blank = [&](int64_t begin, int64_t end) { return begin >= end || is_blank(text.substr(size_t(begin), size_t(end - begin))); };
    int64_t end = -1;
    for (size_t i = std::min(at + 1, parts.size()); i-- > 0 && parts[i].bytes.end > turn.begin;) {
      if (parts[i].id < 0 || parts[i].bytes.begin >= turn.end) continue;
      if (parts[i].bytes.begin >= turn.begin && blank(parts[i].bytes.end, turn.end)) end = parts[i].bytes.end;
      break;
    }
    // Else the next one, if the model ends its texts with it.
    for (size_t i = at; end < 0 && i < parts.size(); ++i) {
      if (parts[i].bytes.begin < turn.end) continue;
      if (parts[i].id >= 0 && !blank(turn.end, parts[i].bytes.begin)) break;
      if (parts[i].id >= 0) {
        if (ends_.contains(parts[i].id)) end = parts[i].bytes.end;
        break;
      }
    }
    if (end < 0 && blank(turn.end, size) && ends_.contains(separator_)) end = size + 1;
    if (end < 0)
      throw FormatError(file, offset,
                        fmt::format("the chat template writes no token that ends the assistant's turn at byte {} of the rendered text, so a model would "
                                    "not learn to stop; give a template for training with --chat-template",
                                    turn.end));
    document.trained.push_back({turn.begin, end});
  }
  document.trained = joined_ranges(std::move(document.trained));
}

MaskedIds encode_document(const MarkedEncoder& encoder, std::string_view text, std::span<const ByteRange> quoted,
                          std::span<const ByteRange> trained, int32_t separator) {
  MaskedIds made = encoder.encode(text, quoted, trained);
  made.ids.push_back(separator);
  made.trained.push_back(!trained.empty() && trained.back().end > int64_t(text.size()));
  return made;
}

std::set<int32_t> turn_end_ids(const fs::path& model, const Tokenizer& tokenizer) {
  std::set<int32_t> ends;
  if (tokenizer.eos_id() >= 0) ends.insert(tokenizer.eos_id());
  const fs::path folder = fs::is_directory(model) ? model : model.parent_path(), config = folder / "config.json";
  for (const int64_t id : end_ids(folder, fs::exists(config) ? read_python_json(config) : Json::object())) ends.insert(int32_t(id));
  return ends;
}

}  // namespace overproof
