#pragma once
// The answer in a completion, and whether it is the answer of the task.

#include <optional>
#include <string>
#include <string_view>

#include "verify/math_value.h"
#include "verify/verdict.h"

namespace overproof {

/// Where a completion has its answer.
enum class AnswerPlace {
  any,     ///< the first of the three that there is
  boxed,   ///< the last \boxed{...}
  phrase,  ///< behind the last "the answer is", "answer:" or "####"
  last,    ///< the last number; of a choice, the last letter that is a word of its own
};

/// Only what follows the last </think> is looked at. `choice`: the answer is a letter A to J. Nothing where there is none.
std::optional<std::string> find_answer(std::string_view completion, AnswerPlace place, bool choice);

/// Whether an expected answer is the letter of a choice: "B" or "(B)".
bool is_choice(std::string_view expected);

/// Compares exactly. `tolerance`: numbers are equal, too, when they differ by at most this share of the expected one (of 1 where it is
/// 0). A decimal that is the expected number rounded to at least six significant digits is correct, one rounded to fewer is unknown.
/// Wrong is only what is shown to be another value of the same kind; where that is not decided, the verdict is unknown. Never throws but
/// std::bad_alloc.
Judgement compare_answers(std::string_view expected, std::string_view answer, double tolerance = 0);

}  // namespace overproof
