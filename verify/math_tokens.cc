#include "verify/math_tokens.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "core/utf8.h"
#include "verify/exact_number.h"

namespace overproof {
namespace {

using Kind = MathToken::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return out;
}

/// Commands of LaTeX that are symbols here; "" is passed over.
const std::map<std::string_view, std::string_view>& commands() {
  static const std::map<std::string_view, std::string_view> table = {
      {"frac", "frac"}, {"dfrac", "frac"}, {"tfrac", "frac"}, {"cfrac", "frac"}, {"sqrt", "sqrt"},  {"cdot", "*"},     {"times", "*"},
      {"ast", "*"},     {"div", "/"},      {"pm", "+-"},      {"cup", "union"},  {"in", "in"},      {"le", "<="},      {"leq", "<="},
      {"leqslant", "<="}, {"ge", ">="},    {"geq", ">="},     {"geqslant", ">="}, {"lt", "<"},      {"gt", ">"},       {"ne", "!="},
      {"neq", "!="},    {"lbrace", "\\{"}, {"rbrace", "\\}"}, {"lbrack", "["},   {"rbrack", "]"},   {"displaystyle", ""}, {"textstyle", ""},
      {"left", ""},     {"right", ""},     {"big", ""},       {"Big", ""},       {"bigl", ""},      {"bigr", ""},      {"Bigl", ""},
      {"Bigr", ""},     {"quad", ""},      {"qquad", ""},     {"limits", ""},    {"cdots", "..."},  {"ldots", "..."},  {"dots", "..."},
      {"or", "and"},    {"lor", "and"},    {"land", "and"},   {"mid", "|"},      {"vert", "|"},     {"lvert", "|"},    {"rvert", "|"}};
  return table;
}

const std::map<std::string_view, std::string_view>& constants() {
  static const std::map<std::string_view, std::string_view> table = {
      {"pi", "pi"},       {"infty", "infinity"}, {"infinity", "infinity"}, {"inf", "infinity"}, {"oo", "infinity"}, {"alpha", "alpha"},
      {"beta", "beta"},   {"gamma", "gamma"},    {"theta", "theta"},       {"lambda", "lambda"}, {"mu", "mu"},      {"sigma", "sigma"},
      {"phi", "phi"},     {"omega", "omega"},    {"delta", "delta"},       {"epsilon", "epsilon"}};
  return table;
}

/// "five" as 5.
std::optional<std::string> number_word(std::string_view word) {
  static constexpr std::array<std::string_view, 21> kNames = {"zero",    "one",     "two",       "three",    "four",     "five",    "six",
                                                              "seven",   "eight",   "nine",      "ten",      "eleven",   "twelve",  "thirteen",
                                                              "fourteen", "fifteen", "sixteen",  "seventeen", "eighteen", "nineteen", "twenty"};
  const auto found = std::ranges::find(kNames, word);
  return found == kNames.end() ? std::nullopt : std::optional(std::to_string(found - kNames.begin()));
}

class Lexer {
 public:
  Lexer(std::string_view text, bool thousands) : text_(text), thousands_(thousands) {}

  std::vector<MathToken> run() {
    while (at_ < text_.size()) step();
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool takes(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  void add(Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), spaced_});
    spaced_ = false;
  }
  void symbol(std::string_view text) {
    if (text == "(" || text == "[" || text == "\\{") ++depth_;
    if (text == ")" || text == "]" || text == "\\}") --depth_;
    add(Kind::symbol, std::string(text));
  }

  void step() {
    const char c = peek();
    if (is_blank(c) || c == '~') {
      spaced_ = true, ++at_;
      return;
    }
    if (is_digit(c) || (c == '.' && is_digit(peek(1)))) return number();
    if (is_letter(c)) return word();
    if (c == '\\') return command();
    if (uint8_t(c) >= 0x80) return other();
    static constexpr std::pair<std::string_view, std::string_view> kPairs[] = {
        {"**", "^"}, {"<=", "<="}, {">=", ">="}, {"!=", "!="}, {"+/-", "+-"}, {"...", "..."}, {"==", "="}};
    for (const auto& [spelled, meaning] : kPairs)
      if (takes(spelled)) return symbol(meaning);
    if (std::string_view("+-*/^()[]{},;=<>!%|_:'").find(c) != std::string_view::npos) {
      ++at_;
      return symbol(std::string_view(&c, 1));
    }
    if (c == '$') {  // money
      ++at_;
      return;
    }
    throw TooHard{"a symbol that is not known"};
  }

  bool digits_at(size_t from, size_t count) const {
    if (from + count > text_.size()) return false;
    return std::ranges::all_of(text_.substr(from, count), is_digit);
  }

  /// Bytes of a separator of thousands at `at`; 0: none.
  size_t separator_at(size_t at, bool& comma) const {
    const std::string_view rest = text_.substr(at);
    for (const std::string_view spelled : {",", "{,}", "\\,", "\\!,", " "})
      if (rest.starts_with(spelled) && digits_at(at + spelled.size(), 3) && !digits_at(at + spelled.size() + 3, 1)) {
        comma = spelled == ",";
        return spelled.size();
      }
    return 0;
  }

  void number() {
    std::string digits;
    while (is_digit(peek())) digits += text_[at_++];
    bool separated = false;
    if (digits.size() <= 3 && !digits.empty() && digits[0] != '0') {
      // All groups or none: 1,000,00 is no number.
      for (bool comma = false; const size_t bytes = separator_at(at_, comma);) {
        if (comma && depth_ > 0 && !thousands_) break;
        separated |= comma && depth_ > 0;
        at_ += bytes;
        digits += text_.substr(at_, 3);
        at_ += 3;
      }
    }
    if (peek() == '.' && is_digit(peek(1))) {
      digits += text_[at_++];
      while (is_digit(peek())) digits += text_[at_++];
    } else if (peek() == '.' && !is_letter(peek(1)) && peek(1) != '.') {
      ++at_;  // "5." is 5
    }
    if ((peek() == 'e' || peek() == 'E') && (is_digit(peek(1)) || ((peek(1) == '-' || peek(1) == '+') && is_digit(peek(2))))) {
      digits += text_[at_++];
      digits += text_[at_++];
      while (is_digit(peek())) digits += text_[at_++];
    }
    add(Kind::number, std::move(digits));
    tokens_.back().thousands = separated;
  }

  void name(std::string_view word) {
    const std::string small = lower(word);
    if (word.size() == 1) return add(Kind::letter, std::string(word));
    if (small == "sqrt") return symbol("sqrt");
    if (small == "and" || small == "or") return symbol("and");
    if (small == "union" || (word == "U" && depth_ == 0)) return symbol("union");
    if (const auto constant = constants().find(small); constant != constants().end()) return add(Kind::letter, std::string(constant->second));
    if (const auto number = number_word(small)) return add(Kind::number, *number);
    if (small == "percent") return symbol("%");
    add(Kind::word, small);
  }

  void word() {
    const size_t begin = at_;
    while (is_letter(peek())) ++at_;
    name(text_.substr(begin, at_ - begin));
  }

  /// The text of a group in braces at the place, which is passed.
  std::string_view group() {
    while (is_blank(peek())) ++at_;
    if (peek() != '{') throw TooHard{"a command without its braces"};
    const size_t begin = ++at_;
    for (int depth = 1; at_ < text_.size(); ++at_) {
      depth += (peek() == '{') - (peek() == '}');
      if (depth == 0) return text_.substr(begin, at_++ - begin);
    }
    throw TooHard{"braces that are not closed"};
  }

  void command() {
    ++at_;
    if (!is_letter(peek())) {
      const char c = peek();
      ++at_;
      if (c == '{' || c == '}') return symbol(c == '{' ? "\\{" : "\\}");
      if (c == '%') return symbol("%");
      if (c == '|') return symbol("|");
      spaced_ |= c == ' ' || c == ',' || c == ';' || c == ':' || c == '\\';
      return;  // spaces, \$ and \!
    }
    const size_t begin = at_;
    while (is_letter(peek())) ++at_;
    const std::string_view name_of = text_.substr(begin, at_ - begin);
    if (name_of == "text" || name_of == "mathrm" || name_of == "textbf" || name_of == "mbox" || name_of == "mathbf" || name_of == "textit" ||
        name_of == "operatorname" || name_of == "rm") {
      if (name_of == "rm") return;
      const std::string_view inside = group();
      spaced_ = true;
      Lexer words(inside, thousands_);
      for (MathToken& token : words.run()) {
        // A letter in text is no variable, but a unit or a choice.
        if (token.kind == Kind::letter && token.text.size() == 1) token.kind = Kind::word;
        tokens_.push_back(std::move(token));
      }
      spaced_ = true;
      return;
    }
    if (name_of == "circ" || name_of == "degree") {
      const bool group = tokens_.size() > 1 && tokens_.back().is("{") && tokens_[tokens_.size() - 2].is("^");
      if (group) tokens_.pop_back();
      if (!tokens_.empty() && tokens_.back().is("^")) tokens_.pop_back();
      add(Kind::word, "degrees");
      while (is_blank(peek())) ++at_;
      if (group && !takes("}")) throw TooHard{"degrees in an exponent"};
      return;
    }
    if (const auto known = commands().find(name_of); known != commands().end()) {
      if (!known->second.empty()) symbol(known->second);
      return;
    }
    if (const auto constant = constants().find(name_of); constant != constants().end()) return add(Kind::letter, std::string(constant->second));
    throw TooHard{"a command that is not known"};
  }

  void other() {
    static constexpr std::pair<std::string_view, std::string_view> kSymbols[] = {
        {"−", "-"}, {"–", "-"}, {"×", "*"}, {"·", "*"}, {"⋅", "*"}, {"÷", "/"}, {"±", "+-"}, {"≤", "<="}, {"≥", ">="}, {"≠", "!="},
        {"∪", "union"}, {"∈", "in"}, {"√", "sqrt"}, {"⁄", "/"}};
    for (const auto& [spelled, meaning] : kSymbols)
      if (takes(spelled)) return symbol(meaning);
    if (takes("π")) return add(Kind::letter, "pi");
    if (takes("∞")) return add(Kind::letter, "infinity");
    if (takes("°")) return add(Kind::word, "degrees");
    for (const std::string_view money : {"€", "£", "¥"})
      if (takes(money)) return;
    for (const auto& [spelled, digit] : {std::pair<std::string_view, std::string_view>{"²", "2"}, {"³", "3"}})
      if (takes(spelled)) {
        symbol("^");
        return add(Kind::number, std::string(digit));
      }
    for (const auto& [spelled, top, bottom] : {std::tuple<std::string_view, const char*, const char*>{"½", "1", "2"}, {"¼", "1", "4"}, {"¾", "3", "4"}})
      if (takes(spelled)) {
        for (const char* part : {"frac", "{"}) add(Kind::symbol, part);
        add(Kind::number, top);
        for (const char* part : {"}", "{"}) add(Kind::symbol, part);
        add(Kind::number, bottom);
        return add(Kind::symbol, "}");
      }
    for (const std::string_view blank : {"\u00a0", "\u2009", "\u202f"})
      if (takes(blank)) {
        spaced_ = true;
        return;
      }
    throw TooHard{"a symbol that is not known"};
  }

  std::string_view text_;
  bool thousands_;
  size_t at_ = 0;
  int depth_ = 0;  // of brackets
  bool spaced_ = false;
  std::vector<MathToken> tokens_;
};

bool unwrap(std::string_view& text, std::string_view open, std::string_view close) {
  if (text.size() < open.size() + close.size() || !text.starts_with(open) || !text.ends_with(close)) return false;
  const std::string_view inside = text.substr(open.size(), text.size() - open.size() - close.size());
  if (close == "}") {  // the brace that closes the first must be the last
    int depth = 0;
    for (const char c : inside) {
      depth += (c == '{') - (c == '}');
      if (depth < 0) return false;
    }
  } else if (inside.find(open) != std::string_view::npos) {
    return false;
  }
  text = inside;
  return true;
}

}  // namespace

std::string without_layout(std::string_view text) {
  for (bool again = true; again;) {
    again = false;
    while (!text.empty() && is_blank(text.front())) text.remove_prefix(1), again = true;
    while (!text.empty() && is_blank(text.back())) text.remove_suffix(1), again = true;
    for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>{"$$", "$$"}, {"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"},
                                      {"**", "**"}, {"\\boxed{", "}"}, {"\\fbox{", "}"}, {"`", "`"}})
      again |= unwrap(text, open, close);
    while (!text.empty() && (text.back() == '.' || text.back() == ',' || text.back() == ';') && !text.ends_with("...") && !text.ends_with("\\,")) {
      text.remove_suffix(1);
      again = true;
    }
  }
  return std::string(text);
}

std::vector<MathToken> math_tokens(std::string_view text, bool thousands) { return Lexer(text, thousands).run(); }

}  // namespace overproof
