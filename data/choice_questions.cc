#include "data/choice_questions.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "core/named_lines.h"
#include "core/utf8.h"
#include "data/unicode.h"

namespace overproof {
namespace {

constexpr size_t kMostNameBytes = 500;

void require_name(const JsonObject& object, const char* member, const std::string& name) {
  if (name.empty() || name.size() > kMostNameBytes || name.find_first_of(std::string_view("\n\r\0", 3)) != std::string::npos)
    object.fail(member, fmt::format("is empty, longer than {} bytes, or has a line break", kMostNameBytes));
}

int64_t answer_of(const JsonObject& object, const std::vector<std::string>& choices) {
  const Json& answer = object.at("answer");
  if (!answer.is_string()) return object.integer("answer", 0, int64_t(choices.size()) - 1);
  const auto found = std::ranges::find(choices, answer.get<std::string>());
  if (found == choices.end()) object.fail("answer", "is none of the choices; it is one of their texts, or an index from 0");
  return found - choices.begin();
}

/// Bytes of white space at the end, as Python's str.rstrip() takes them: White_Space of Unicode and four control characters.
size_t trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (uint8_t(text[begin]) & 0xc0) == 0x80) --begin;
    const Utf8Char character = decode_utf8(text.substr(begin, end - begin));
    if (!character.valid || size_t(character.bytes) != end - begin) break;
    if (!is_white_space(character.code) && (character.code < 0x1c || character.code > 0x1f)) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace

ChoiceQuestion read_choice_question(std::string_view text, const fs::path& file, int64_t offset, int64_t line) {
  const Json record = parse_json(text, file, offset);
  if (!record.is_object()) throw FormatError(file, offset, "a question is one JSON object a line");
  const JsonObject object(record, file, "", JsonNull::absent, offset);
  ChoiceQuestion question;
  question.context = object.text("context");
  question.delimiter = object.text("delimiter", " ");
  question.task = object.text("task", "questions");
  question.name = object.text("name", fmt::format("question-{}", line));
  require_name(object, "task", question.task);
  require_name(object, "name", question.name);
  if (question.task == kClozeTask) object.fail("task", "is 'cloze', the name of the questions that are made from held-out text; choose another");
  question.choices = object.texts("choices");
  if (question.choices.size() < 2 || question.choices.size() > kMostChoices)
    object.fail("choices", fmt::format("has {} texts; it takes 2 to {}", question.choices.size(), kMostChoices));
  std::set<std::string_view> different;
  for (const std::string& choice : question.choices) {
    if (choice.empty()) object.fail("choices", "has an empty text");
    if (!different.insert(choice).second) object.fail("choices", "has a text twice");
  }
  question.answer = answer_of(object, question.choices);
  return question;
}

std::vector<ChoiceQuestion> read_choice_questions(const fs::path& file) {
  std::vector<ChoiceQuestion> questions;
  read_named_lines(file, "question", [&](std::string_view text, int64_t offset, int64_t line) {
    return questions.emplace_back(read_choice_question(text, file, offset, line)).name;
  });
  if (questions.empty()) throw FormatError(file, -1, "has no question: one JSON object a line, with 'context', 'choices' and 'answer'");
  return questions;
}

ChoiceIds choice_ids(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation, bool add_begin) {
  ChoiceIds ids;
  if (context.empty()) {
    const int32_t first = tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id();
    if (first < 0) throw MismatchError("the tokenizer has neither a beginning-of-text nor an end token, so an empty context has no token; give questions a context");
    tokenizer.encode(continuation, ids.continuation, true);
    ids.context = {first};
    if (!ids.continuation.empty() && ids.continuation.front() == first) ids.continuation.erase(ids.continuation.begin());
    return ids;
  }
  const std::string_view read = context.substr(0, context.size() - trailing_space(context));
  std::vector<int32_t> whole;
  tokenizer.encode(std::string(context) + std::string(continuation), whole, true);
  if (add_begin && tokenizer.bos_id() >= 0 && !read.starts_with(tokenizer.token_text(tokenizer.bos_id()))) {
    ids.context = {tokenizer.bos_id()};
    whole.insert(whole.begin(), tokenizer.bos_id());
  }
  tokenizer.encode(read, ids.context, true);
  if (whole.size() > ids.context.size()) ids.continuation.assign(whole.begin() + ptrdiff_t(ids.context.size()), whole.end());
  return ids;
}

}  // namespace overproof
