#pragma once
// One text in the tokens of two tokenizers: which stretches of tokens are the same bytes. What a model computes after a common
// beginning of the text can then be compared with what a model of another tokenizer computes there.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer.h"

namespace overproof {

/// Tokens [a_begin, a_end) of one list and [b_begin, b_end) of another: the same bytes, with no shorter pair of the same inside.
struct TokenSpan {
  int64_t a_begin = 0, a_end = 0, b_begin = 0, b_end = 0;
  bool operator==(const TokenSpan&) const = default;
};

/// The spans of two tokenizations of one text, given by the byte offset at which each token ends; both lists ascend, and a token may have
/// no bytes. Spans follow each other from the first tokens on; tokens after the last common end are in none. Equal lists give a span for
/// each token.
std::vector<TokenSpan> align_ends(std::span<const int64_t> a_ends, std::span<const int64_t> b_ends);

/// What each id spells inside a text.
class TokenSpelling {
 public:
  explicit TokenSpelling(const Tokenizer& tokenizer);
  /// The bytes of an id, of a special token its text; "" beyond the vocabulary, as of the rows that pad an embedding.
  std::string_view bytes(int64_t id) const;
  bool is_special(int64_t id) const;
  /// Whether it is a SentencePiece piece for a byte that no other piece has: another token may spell the same.
  bool is_fallback(int64_t id) const;
  int64_t size() const { return int64_t(bytes_.size()); }

 private:
  std::vector<std::string> bytes_;
  std::vector<bool> special_, fallback_;
};

/// Translates ids of a student's tokenizer into those of a teacher's.
class TokenAligner {
 public:
  /// The tokenizers must outlive it.
  TokenAligner(const Tokenizer& student, const Tokenizer& teacher);

  struct Aligned {
    std::vector<int32_t> ids;      ///< of the teacher
    std::vector<TokenSpan> spans;  ///< a: the student's tokens, b: the teacher's
  };
  /// The text that `ids` spell in the teacher's tokens. Special tokens that have a counterpart (the same text, or the same role: end or
  /// begin of a text, separator) become it, others are text. Every byte before a span is before it in both lists, but for the space that a
  /// SentencePiece tokenizer puts before a text, and for parts of a character at the ends of the window, which the teacher does not
  /// see. Texts that the teacher's tokenizer changes, by normalisation or where they are no UTF-8, are in no span; nor is what follows the
  /// last common end before the end of `ids`, where the text is cut.
  Aligned align(std::span<const int64_t> ids) const;

  /// Ids that spell the same, (student's, teacher's), ascending; no id is in two pairs. Of ids that spell the same in one tokenizer, the
  /// first that is no fallback for a byte.
  const std::vector<std::pair<int32_t, int32_t>>& common() const { return common_; }

 private:
  void add_text(std::span<const int64_t> ids, int64_t first, bool cut, Aligned& out) const;
  const Tokenizer& teacher_;
  TokenSpelling of_student_, of_teacher_;
  std::map<int64_t, int32_t> special_;  // counterparts
  std::vector<std::pair<int32_t, int32_t>> common_;
};

}  // namespace overproof
