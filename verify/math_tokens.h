#pragma once
// The symbols of a mathematical answer, LaTeX and plain text alike.

#include <string>
#include <string_view>
#include <vector>

namespace overproof {

struct MathToken {
  enum class Kind {
    number,  ///< digits, with a point or an exponent; thousands without their separators
    letter,  ///< a variable; also "pi", "infinity", "alpha"
    word,    ///< of text: a unit
    symbol,  ///< one of + - * / ^ ( ) [ ] { } , ; = < > ! % | and, as two or more: <= >= != +- \{ \} union in frac sqrt root and
  };
  Kind kind;
  std::string text;
  bool spaced = false;     ///< blanks are before it
  bool thousands = false;  ///< a number with commas that separate thousands
  bool is(std::string_view symbol) const { return kind == Kind::symbol && text == symbol; }
};

/// `thousands`: whether 1,000 inside brackets is one number. Outside of them it always is. Throws TooHard for a symbol that is not known.
std::vector<MathToken> math_tokens(std::string_view text, bool thousands);

/// Removes what only sets the text: dollars and brackets of displayed formulas, \left, \boxed, bold, spaces at both ends and a full stop.
std::string without_layout(std::string_view text);

}  // namespace overproof
