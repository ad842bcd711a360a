#pragma once
// What the text of a mathematical answer means: LaTeX or plain text to a number, a tuple, a list, a set or intervals.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "verify/exact_number.h"

namespace overproof {

struct MathInterval {
  std::optional<ExactNumber> low, high;  ///< nothing: infinite
  bool low_closed = false, high_closed = false;
};

struct MathValue {
  enum class Kind {
    number,
    tuple,      ///< (1, 2); of two numbers, also an open interval
    list,       ///< 1, 2 without brackets
    brackets,   ///< [1, 2]: a list or a closed interval
    set,        ///< {1, 2}
    intervals,  ///< a union
    text,       ///< anything else: compared letter by letter
  };
  Kind kind = Kind::text;
  ExactNumber number;
  bool percent = false;   ///< of `number`, which is not divided by 100
  int decimals = -1;      ///< digits behind the point, where the number is written as one decimal; else -1
  std::string unit;       ///< words behind the number, in lower case
  std::string defines;    ///< "x" of x = 5, or of an inequality; else empty
  std::vector<MathValue> items;
  std::vector<MathInterval> intervals;
  std::string text;  ///< of every kind: what was read, without layout
};

/// Every meaning that `text` may have: more than one where a comma in brackets may separate thousands or items. Never empty: what is not
/// understood is a text. Takes time in proportion to its length but for the limits of ExactNumber; texts over 4,000 bytes are texts.
std::vector<MathValue> read_math(std::string_view text);

}  // namespace overproof
