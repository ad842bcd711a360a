// Multiple-choice questions as JSON Lines: refused with a FormatError, or every question has different choices and an answer among them. Then context and
// choices are cut into ids, of any bytes.

#include "core/error.h"
#include "data/bpe.h"
#include "data/choice_questions.h"
#include "fuzz/fuzz_file.h"
#include "tests/data/fixtures.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BpeTokenizer tokenizer(small_bpe({{"Ġ", "a"}, {"b", "c"}}), "test");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  choice_ids(tokenizer, text.substr(0, size / 2), text.substr(size / 2));
  try {
    const ChoiceQuestion question = read_choice_question(text, "questions.jsonl", 0, 1);
    fuzz::require(!question.name.empty() && !question.task.empty());
    fuzz::require(question.choices.size() >= 2 && question.choices.size() <= kMostChoices);
    fuzz::require(question.answer >= 0 && size_t(question.answer) < question.choices.size());
    for (const std::string& choice : question.choices) {
      fuzz::require(!choice.empty());
      choice_ids(tokenizer, question.context, question.delimiter + choice, true);
    }
  } catch (const FormatError&) {
  }
  return 0;
}
