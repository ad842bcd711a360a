#pragma once
// Answers of language-model servers with log-probabilities, in five dialects. Everything in an answer is hostile input: what is not
// exactly what was asked for is a FormatError, never a guess.
//
//   dialect      request                                     where the log-probabilities are
//   vllm         POST /completions, prompt_logprobs          choices[0].prompt_logprobs: list of {"<id>": {"logprob": x}}, the first null
//   sglang       POST /generate, top_logprobs_num            meta_info.input_top_logprobs: list of [[x, id, text]], the first null;
//                                                            meta_info.input_token_logprobs: list of [x, id, text], the prompt's ids
//   echo         POST /completions, echo, logprobs           choices[0].logprobs: tokens (strings), top_logprobs: list of {string: x}
//   llama        POST /completion, n_probs                   completion_probabilities[0].top_logprobs: [{"id": n, "logprob": x}], of one
//                (llama-server's own)                        token to come: it cannot score a prompt
//   completions  POST /completions, logprobs                 choices[0].logprobs.top_logprobs[0]: {string: x}, of one token to come
//
// Sources: vLLM's protocol.py, SGLang's native API, the legacy OpenAI completions API, llama.cpp's tools/server/README.md.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace overproof {

enum class Dialect { vllm, sglang, echo, llama, completions };

/// Ids by the text that a server gives for them. A text that is that of two ids, or that a server may also give for a token which is no
/// whole character (as U+FFFD, or without the bytes that do not fit), names none.
class TokenNames {
 public:
  TokenNames() = default;
  /// `bytes`: what each id adds to a text, by id; "" where nothing is known. `special`: ids of tokens that are no text, ascending.
  explicit TokenNames(std::vector<std::string> bytes, std::vector<int32_t> special = {});
  /// -1: no id, or more than one.
  int32_t find(std::string_view text) const;
  /// Whether a server may give `text` for the id: its bytes; for a token that is no whole character also what servers make of that; for
  /// a special one also "".
  bool may_be(std::string_view text, int32_t id) const;

 private:
  std::vector<std::string> bytes_;
  std::vector<int32_t> special_;
  std::unordered_map<std::string, int32_t> ids_;
};

/// The likeliest ids of a position, ascending; empty where the server gave none. Log-probabilities are natural, at most 0.
struct AnsweredRow {
  std::vector<int32_t> ids;
  std::vector<float> logs;
};

/// Brings a row into order: ascending ids, the `top` likeliest, at most 0. Returns what is wrong with it, "" for nothing: a log-probability that
/// is not finite or above 0, an id twice, probabilities that sum with `others` to more than 1.
std::string tidy_row(AnsweredRow& row, int64_t top, double others = 0);

/// What was asked, as far as an answer must agree with it.
struct AnswerShape {
  Dialect dialect = Dialect::vllm;
  std::span<const int32_t> prompt;  ///< the ids that were sent, or whose text was sent; at least two
  int64_t top = 1;                  ///< entries that were asked for at each position
  int64_t vocab_size = 0;
  /// Of `echo`: the distribution of the token after ids[i] is at index i + 1 of the list, or, in servers that are one off, at index i.
  bool shifted = false;
  const TokenNames* names = nullptr;  ///< for texts; nullptr: ids only
};

struct TeacherAnswer {
  std::string model;  ///< as the server names it; "" where it does not
  int64_t prompt_tokens = -1, completion_tokens = -1;  ///< that the server counts; -1: not in the answer
  /// Row i is the distribution of the token after prompt[i]. Scoring dialects: prompt.size() - 1 rows; else the one row after the last.
  std::vector<AnsweredRow> rows;
  /// Of `echo`: the server cut the text into other tokens than were asked about. Then all rows are empty.
  bool other_tokens = false;
  int64_t unnamed = 0;  ///< entries whose text names no id: their probability belongs to the tail
};

/// Whether an answer has a row for every token of the prompt.
constexpr bool scores_prompts(Dialect dialect) { return dialect != Dialect::llama && dialect != Dialect::completions; }

/// Reads one answer. `origin` is for messages. Throws FormatError: no JSON, not of the dialect, other prompt tokens than the ids that were
/// sent, a number of positions that is not the prompt's, an id that is there twice or outside the vocabulary, a log-probability that is not finite or
/// above 0, probabilities that sum to more than 1.
TeacherAnswer parse_teacher_answer(std::string_view body, const AnswerShape& shape, const std::string& origin);

/// The answer of a chat completion: its first choice's message.
struct ChatAnswer {
  std::string model;  ///< as the server names it; "" where it does not
  std::string text;
  int64_t prompt_tokens = -1, completion_tokens = -1;  ///< that the server counts; -1: not in the answer
};
/// Throws FormatError: no JSON, no choice, no text in it.
ChatAnswer parse_chat_answer(std::string_view body, const std::string& origin);

/// The text of a server's error, on one line and at most 300 bytes: error.message, message, detail or the beginning of the body.
std::string server_error_text(std::string_view body);

}  // namespace overproof
