#pragma once
// Multiple-choice questions that are scored by likelihood, as JSON Lines: one object a line.
//
//   {"context": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0}
//   {"context": "Q: ...\nA:", "choices": ["yes", "no"], "answer": "no", "task": "facts", "name": "facts/7", "delimiter": " "}
//
//   context    what the model reads; may be empty
//   choices    2 to kMostChoices different texts, none empty
//   answer     index of the right choice, or its text
//   delimiter  between context and choice; " " where it is missing, as target_delimiter of lm-evaluation-harness
//   task       the group that it is reported with; "questions" where it is missing
//   name       distinct in the file; "question-<line>" where it is missing
//
// All else of a record is ignored.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/tokenizer.h"

namespace overproof {

inline constexpr size_t kMostChoices = 256;
/// The task of the questions that evaluate makes from held-out text (data/cloze.h); no file may have it.
inline constexpr const char* kClozeTask = "cloze";

struct ChoiceQuestion {
  std::string task, name, context, delimiter = " ";
  std::vector<std::string> choices;
  int64_t answer = 0;  ///< index into `choices`
};

/// One record. `line`: for its name, from 1; `offset`: for faults. Throws FormatError naming the member.
ChoiceQuestion read_choice_question(std::string_view text, const fs::path& file, int64_t offset, int64_t line);
/// All of a file, in its order. Throws FormatError, also where a name occurs twice or there is no question.
std::vector<ChoiceQuestion> read_choice_questions(const fs::path& file);

/// The ids of a context and of the continuation whose probability is asked for.
struct ChoiceIds {
  std::vector<int32_t> context, continuation;
};
/// As lm-evaluation-harness cuts a pair (TemplateLM._encode_pair): white space at the end of the context belongs to the continuation; the
/// continuation's ids are those of the whole text behind as many as the context alone has. No token is put before the text unless `add_begin`
/// (adds_begin_token() of data/gguf_vocabulary.h): then the beginning-of-text token is, if the text does not begin with it. An empty context is that token,
/// or, where there is none, the end token. Special tokens that are spelled out become their ids.
/// The continuation may come out empty: then the tokenizer has joined all of it with the context.
ChoiceIds choice_ids(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation, bool add_begin = false);

}  // namespace overproof
