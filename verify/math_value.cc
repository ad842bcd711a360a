#include "verify/math_value.h"

#include <algorithm>
#include <span>

#include "verify/math_tokens.h"

namespace overproof {
namespace {

using Kind = MathValue::Kind;
using Tokens = std::span<const MathToken>;

constexpr size_t kMostBytes = 4000;
constexpr size_t kMostItems = 64;
constexpr int kMostDepth = 60;

bool opens(const MathToken& t) { return t.is("(") || t.is("[") || t.is("{") || t.is("\\{"); }
bool closes(const MathToken& t) { return t.is(")") || t.is("]") || t.is("}") || t.is("\\}"); }

/// Places of tokens outside of all brackets that `is_it` is true of.
template <class Predicate>
std::vector<size_t> outside(Tokens tokens, Predicate is_it) {
  std::vector<size_t> places;
  int depth = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (closes(tokens[i]) && --depth < 0) throw TooHard{"a bracket that was not opened"};
    if (depth == 0 && is_it(tokens[i])) places.push_back(i);
    depth += opens(tokens[i]);
  }
  if (depth != 0) throw TooHard{"a bracket that is not closed"};
  return places;
}

std::vector<Tokens> split(Tokens tokens, const std::vector<size_t>& places) {
  std::vector<Tokens> parts;
  size_t begin = 0;
  for (const size_t place : places) {
    parts.push_back(tokens.subspan(begin, place - begin));
    begin = place + 1;
  }
  parts.push_back(tokens.subspan(begin));
  return parts;
}

bool is_comparison(const MathToken& t) { return t.is("<") || t.is(">") || t.is("<=") || t.is(">="); }

/// One number: an expression, then words that are its unit.
class Expression {
 public:
  Expression(Tokens tokens, int sign_of_plus_minus, int depth) : tokens_(tokens), sign_(sign_of_plus_minus), depth_(depth) {}

  MathValue read() {
    MathValue value;
    value.kind = Kind::number;
    value.number = sum();
    if (takes("%")) value.percent = true;
    read_unit(value.unit);
    if (at_ < tokens_.size()) throw TooHard{"a symbol that does not belong to a number"};
    const size_t signs = !tokens_.empty() && tokens_[0].is("-");
    if (tokens_.size() > signs && tokens_[signs].kind == MathToken::Kind::number) {
      const size_t rest = tokens_.size() - signs - 1 - size_t(value.percent);
      const std::string& digits = tokens_[signs].text;
      if ((rest == 0 || !value.unit.empty()) && digits.find_first_of("eE") == std::string::npos) {
        const size_t point = digits.find('.');
        value.decimals = point == std::string::npos ? 0 : int(digits.size() - point - 1);
      }
    }
    return value;
  }

 private:
  struct Deeper {
    explicit Deeper(int& depth) : depth_(depth) {
      if (++depth_ > kMostDepth) throw TooHard{"brackets that nest too deeply"};
    }
    ~Deeper() { --depth_; }
    int& depth_;
  };

  const MathToken* peek() const { return at_ < tokens_.size() ? &tokens_[at_] : nullptr; }
  bool next_is(std::string_view symbol) const { return peek() && peek()->is(symbol); }
  bool takes(std::string_view symbol) { return next_is(symbol) ? ++at_, true : false; }
  void expect(std::string_view symbol) {
    if (!takes(symbol)) throw TooHard{"a bracket that is not closed"};
  }

  /// From the first word on: "cm", "cm^2", "m / s".
  void read_unit(std::string& unit) {
    if (!peek() || peek()->kind != MathToken::Kind::word) return;
    for (; at_ < tokens_.size(); ++at_) {
      const MathToken& t = tokens_[at_];
      if (t.kind == MathToken::Kind::symbol && !t.is("^") && !t.is("/") && !t.is("*") && !t.is("{") && !t.is("}") && !t.is("-"))
        throw TooHard{"a symbol in a unit"};
      if (t.is("{") || t.is("}")) continue;
      if (!unit.empty() && t.spaced && t.kind != MathToken::Kind::symbol) unit += ' ';
      unit += t.text;
    }
  }

  ExactNumber sum() {
    const Deeper deeper(depth_);
    ExactNumber total = product();
    for (;;) {
      if (takes("+")) total = total + product();
      else if (takes("-")) total = total - product();
      else if (takes("+-")) total = sign_ > 0 ? total + product() : total - product();
      else return total;
    }
  }

  bool begins_factor() const {
    const MathToken* t = peek();
    if (!t || t->kind == MathToken::Kind::word) return false;
    if (t->kind != MathToken::Kind::symbol) return true;
    return t->is("(") || t->is("{") || t->is("sqrt") || t->is("frac") || t->is("[");
  }

  ExactNumber product() {
    ExactNumber total = factor();
    for (;;) {
      if (takes("*")) total = total * factor();
      else if (takes("/")) total = total / factor();
      else if (begins_factor()) {
        if (peek()->kind == MathToken::Kind::number) throw TooHard{"two numbers next to each other"};
        total = total * power();
      } else return total;
    }
  }

  ExactNumber factor() {
    const Deeper deeper(depth_);
    if (takes("-")) return -factor();
    if (takes("+")) return factor();
    if (takes("+-")) return sign_ > 0 ? factor() : -factor();
    return power();
  }

  ExactNumber power() {
    const ExactNumber base = atom();
    if (takes("!")) return factorial(base);
    if (!takes("^")) return base;
    if (takes("{")) {
      const ExactNumber exponent = sum();
      expect("}");
      return base.power(exponent);
    }
    if (takes("-")) return base.power(-atom());
    const ExactNumber exponent = atom();
    if (next_is("^")) throw TooHard{"a tower of exponents"};
    return base.power(exponent);
  }

  static ExactNumber factorial(const ExactNumber& base) {
    const auto value = base.rational();
    if (!value || boost::multiprecision::denominator(*value) != 1 || *value < 0 || *value > 100) throw TooHard{"a factorial of this"};
    Rational product = 1;
    for (int64_t n = 2; n <= boost::multiprecision::numerator(*value).convert_to<int64_t>(); ++n) product *= n;
    return ExactNumber(product);
  }

  /// What follows \frac or \sqrt: a group, or one digit of "\frac12".
  ExactNumber argument() {
    if (takes("{")) {
      const ExactNumber value = sum();
      expect("}");
      return value;
    }
    if (peek() && peek()->kind == MathToken::Kind::number) {
      const std::string digits = peek()->text;
      if (digits.find_first_not_of("0123456789") == std::string::npos && digits.size() > 1) {
        if (++digits_used_ < digits.size()) return ExactNumber(Rational(digits[digits_used_ - 1] - '0'));
        digits_used_ = 0;
        ++at_;
        return ExactNumber(Rational(digits.back() - '0'));
      }
    }
    return atom();
  }

  ExactNumber fraction() {
    digits_used_ = 0;
    const ExactNumber top = argument();
    const ExactNumber bottom = argument();
    if (digits_used_ != 0) throw TooHard{"a fraction with too many digits and no braces"};
    return top / bottom;
  }

  ExactNumber square_root() {
    int64_t degree = 2;
    if (takes("[")) {
      const auto given = sum().rational();
      expect("]");
      if (!given || boost::multiprecision::denominator(*given) != 1 || *given < 2 || *given > 16) throw TooHard{"a root of this degree"};
      degree = boost::multiprecision::numerator(*given).convert_to<int64_t>();
    }
    digits_used_ = 0;
    if (peek() && peek()->kind == MathToken::Kind::number) return atom().root(degree);
    return argument().root(degree);
  }

  static bool is_whole(const MathToken& t) {
    return t.kind == MathToken::Kind::number && t.text.find_first_not_of("0123456789") == std::string::npos;
  }
  bool whole_group(size_t at) const {
    return at + 2 < tokens_.size() && tokens_[at].is("{") && is_whole(tokens_[at + 1]) && tokens_[at + 2].is("}");
  }

  ExactNumber number() {
    const MathToken& t = tokens_[at_++];
    const ExactNumber value(decimal_value(t.text));
    if (!is_whole(t)) return value;
    // Mixed numbers: 1\frac{1}{2} and 1 1/2.
    if (next_is("frac") && whole_group(at_ + 1) && whole_group(at_ + 4)) {
      ++at_;
      return value + fraction();
    }
    if (at_ + 2 < tokens_.size() && is_whole(tokens_[at_]) && tokens_[at_].spaced && tokens_[at_ + 1].is("/") && is_whole(tokens_[at_ + 2])) {
      const ExactNumber top(decimal_value(tokens_[at_].text)), bottom(decimal_value(tokens_[at_ + 2].text));
      at_ += 3;
      return value + top / bottom;
    }
    return value;
  }

  ExactNumber atom() {
    const Deeper deeper(depth_);
    const MathToken* t = peek();
    if (!t) throw TooHard{"an expression that ends too early"};
    if (t->kind == MathToken::Kind::number) return number();
    if (t->kind == MathToken::Kind::letter) {
      ++at_;
      if (t->text == "pi") return ExactNumber::pi();
      if (t->text == "i") return ExactNumber::i();
      if (t->text == "infinity") throw TooHard{"infinity in an expression"};
      if (next_is("_")) throw TooHard{"a letter with an index"};
      if (next_is("(") && t->text.size() == 1 && std::string_view("fgh").find(t->text[0]) != std::string_view::npos)
        throw TooHard{"a function"};
      return ExactNumber::variable(t->text);
    }
    for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>{"(", ")"}, {"{", "}"}, {"[", "]"}})
      if (takes(open)) {
        const ExactNumber value = sum();
        expect(close);
        return value;
      }
    if (takes("sqrt")) return square_root();
    if (takes("frac")) return fraction();
    throw TooHard{"a symbol that no number begins with"};
  }

  Tokens tokens_;
  int sign_;
  int depth_;
  size_t at_ = 0, digits_used_ = 0;
};

class Reader {
 public:
  MathValue read(Tokens tokens, int depth) {
    if (tokens.empty()) throw TooHard{"an empty part"};
    if (depth > kMostDepth) throw TooHard{"brackets that nest too deeply"};
    if (const auto unions = outside(tokens, [](const MathToken& t) { return t.is("union"); }); !unions.empty()) return join(split(tokens, unions), depth);
    const auto commas = outside(tokens, [](const MathToken& t) { return t.is(",") || t.is(";") || t.is("and"); });
    if (!commas.empty()) return list(tokens, commas, depth);
    if (const auto comparisons = outside(tokens, is_comparison); !comparisons.empty()) return inequality(tokens, comparisons);
    if (const auto equals = outside(tokens, [](const MathToken& t) { return t.is("=") || t.is("in"); }); !equals.empty())
      return equation(tokens, equals, depth);
    if (!outside(tokens, [](const MathToken& t) { return t.is("+-"); }).empty()) {
      MathValue both;
      both.kind = Kind::list;
      for (const int sign : {1, -1}) both.items.push_back(Expression(tokens, sign, depth).read());
      return both;
    }
    if (auto bracketed = brackets(tokens, depth)) return *bracketed;
    return Expression(tokens, 1, depth).read();
  }

 private:
  /// "x = 5", "y = 3 + 4 = 7": what is behind the last sign.
  MathValue equation(Tokens tokens, const std::vector<size_t>& equals, int depth) {
    const auto parts = split(tokens, equals);
    MathValue value = read(parts.back(), depth + 1);
    const Tokens left = parts.front();
    const bool one_letter = left.size() == 1 && left[0].kind == MathToken::Kind::letter;
    const bool function = left.size() == 4 && left[0].kind == MathToken::Kind::letter && left[1].is("(") && left[2].kind == MathToken::Kind::letter &&
                          left[3].is(")");
    if (is_tuple_of_letters(left)) return value;  // (x, y) = (1, 2)
    if (one_letter || function) {
      value.defines = left[0].text;
      return value;
    }
    if (tokens[equals[0]].is("in")) throw TooHard{"membership of an expression"};
    // A calculation: both sides are known.
    if (value.kind != Kind::number || !value.number.variables().empty()) throw TooHard{"an equation"};
    for (const Tokens part : parts)
      if (!Expression(part, 1, depth).read().number.variables().empty()) throw TooHard{"an equation"};
    return value;
  }

  static bool is_tuple_of_letters(Tokens tokens) {
    if (tokens.size() < 5 || tokens.size() % 2 == 0 || !tokens.front().is("(") || !tokens.back().is(")")) return false;
    for (size_t i = 1; i + 1 < tokens.size(); ++i)
      if (i % 2 == 1 ? tokens[i].kind != MathToken::Kind::letter : !tokens[i].is(",")) return false;
    return true;
  }

  MathValue list(Tokens tokens, const std::vector<size_t>& commas, int depth) {
    MathValue value;
    value.kind = Kind::list;
    for (const Tokens part : split(tokens, commas)) {
      if (part.empty() && !value.items.empty()) continue;  // ", and"
      value.items.push_back(read(part, depth + 1));
      if (value.items.size() > kMostItems) throw TooHard{"a list of too many items"};
    }
    return value;
  }

  std::optional<MathValue> brackets(Tokens tokens, int depth) {
    if (tokens.size() < 2 || !opens(tokens.front()) || !closes(tokens.back())) return std::nullopt;
    const Tokens inside = tokens.subspan(1, tokens.size() - 2);
    const bool braces = tokens.front().is("\\{") || tokens.front().is("{");
    try {
      const auto commas = outside(inside, [](const MathToken& t) { return t.is(",") || t.is(";"); });
      const bool set = tokens.front().is("\\{") && tokens.back().is("\\}");
      if (commas.empty() && !set) return std::nullopt;
      MathValue value;
      if (braces) {
        value.kind = Kind::set;
        if (inside.empty()) return value;
      } else if (commas.size() == 1) {
        if (auto interval = interval_of(tokens, inside, commas[0])) return interval;
      }
      if (!braces) value.kind = tokens.front().is("[") ? Kind::brackets : Kind::tuple;
      if (!braces && tokens.front().is("(") != tokens.back().is(")")) throw TooHard{"brackets that do not match"};
      value.items = commas.empty() ? std::vector<MathValue>{read(inside, depth + 1)} : list(inside, commas, depth).items;
      return value;
    } catch (const TooHard&) {
      // (1+2)(3+4) begins and ends with brackets, too.
      if (!outside(tokens, opens).empty() && outside(tokens, closes).size() > 1) return std::nullopt;
      throw;
    }
  }

  /// Of (2, 5], or with an infinite end; [2, 5] and (2, 5) may mean other things as well.
  std::optional<MathValue> interval_of(Tokens tokens, Tokens inside, size_t comma) {
    const bool low_closed = tokens.front().is("["), high_closed = tokens.back().is("]");
    const Tokens low = inside.subspan(0, comma), high = inside.subspan(comma + 1);
    const bool low_infinite = is_infinity(low, true), high_infinite = is_infinity(high, false);
    if (low_closed == high_closed && !low_infinite && !high_infinite) return std::nullopt;
    MathInterval interval{{}, {}, low_closed && !low_infinite, high_closed && !high_infinite};
    if (!low_infinite) interval.low = Expression(low, 1, 0).read().number;
    if (!high_infinite) interval.high = Expression(high, 1, 0).read().number;
    MathValue value;
    value.kind = Kind::intervals;
    value.intervals.push_back(std::move(interval));
    return value;
  }

  static bool is_infinity(Tokens tokens, bool low) {
    if (low) return tokens.size() == 2 && tokens[0].is("-") && tokens[1].text == "infinity";
    return (tokens.size() == 1 && tokens[0].text == "infinity") || (tokens.size() == 2 && tokens[0].is("+") && tokens[1].text == "infinity");
  }

  MathValue join(const std::vector<Tokens>& parts, int depth) {
    MathValue value;
    value.kind = Kind::intervals;
    for (const Tokens part : parts) {
      const MathValue one = read(part, depth + 1);
      if (const auto interval = as_interval(one)) value.intervals.push_back(*interval);
      else if (one.kind == Kind::intervals) value.intervals.insert(value.intervals.end(), one.intervals.begin(), one.intervals.end());
      else throw TooHard{"a union of other things than intervals"};
      if (value.intervals.size() > kMostItems) throw TooHard{"a union of too many intervals"};
    }
    return value;
  }

  static std::optional<MathInterval> as_interval(const MathValue& value) {
    if ((value.kind != Kind::tuple && value.kind != Kind::brackets) || value.items.size() != 2) return std::nullopt;
    for (const MathValue& item : value.items)
      if (item.kind != Kind::number) return std::nullopt;
    const bool closed = value.kind == Kind::brackets;
    return MathInterval{value.items[0].number, value.items[1].number, closed, closed};
  }

  /// x > 3, 1 < x <= 5.
  MathValue inequality(Tokens tokens, const std::vector<size_t>& places) {
    const auto parts = split(tokens, places);
    if (parts.size() > 3) throw TooHard{"an inequality of several parts"};
    const auto is_letter = [](Tokens part) { return part.size() == 1 && part[0].kind == MathToken::Kind::letter && part[0].text != "pi" && part[0].text != "infinity"; };
    size_t letter = 0;
    while (letter < parts.size() && !is_letter(parts[letter])) ++letter;
    if (letter == parts.size() || (parts.size() == 3 && letter != 1)) throw TooHard{"an inequality"};
    MathInterval interval;
    for (size_t i = 0; i < places.size(); ++i) {
      const MathToken& sign = tokens[places[i]];
      const bool less = sign.is("<") || sign.is("<="), closed = sign.is("<=") || sign.is(">=");
      const bool letter_left = letter == i;
      const Tokens other = parts[letter_left ? i + 1 : i];
      const bool bounds_above = less == letter_left;
      if (is_infinity(other, !bounds_above)) continue;
      const MathValue bound = Expression(other, 1, 0).read();
      if (!bound.number.variables().empty()) throw TooHard{"an inequality of two letters"};
      if (bounds_above ? interval.high.has_value() : interval.low.has_value()) throw TooHard{"an inequality"};
      if (bounds_above) interval.high = bound.number, interval.high_closed = closed;
      else interval.low = bound.number, interval.low_closed = closed;
    }
    MathValue value;
    value.kind = Kind::intervals;
    value.defines = parts[letter][0].text;
    value.intervals.push_back(std::move(interval));
    return value;
  }
};

/// Without layout: what texts are compared by. Blanks stay where two letters or digits would meet, and braces but for those of text.
std::string plain_text(std::string_view text) {
  std::string out;
  bool blank = false;
  int text_braces = 0;
  const auto is_word = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      size_t bytes = 0;
      for (const std::string_view command : {"\\text{", "\\mathrm{", "\\mathbf{", "\\textbf{", "\\left", "\\right", "\\,", "\\ ", "\\!", "\\;"})
        if (bytes == 0 && text.substr(i).starts_with(command)) bytes = command.size();
      if (bytes > 0) {
        text_braces += text[i + bytes - 1] == '{';
        blank = true;
        i += bytes - 1;
        continue;
      }
    }
    const char c = text[i];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '~' || c == '$') {
      blank = true;
      continue;
    }
    if (c == '}' && text_braces > 0) {  // words have no braces of their own
      --text_braces;
      blank = true;
      continue;
    }
    if (blank && !out.empty() && is_word(out.back()) && is_word(c)) out += ' ';
    blank = false;
    out += c;
  }
  return out;
}

}  // namespace

std::vector<MathValue> read_math(std::string_view given) {
  MathValue nothing;
  if (given.size() > kMostBytes) {
    nothing.text = given;
    return {nothing};
  }
  const std::string text = without_layout(given);
  nothing.text = plain_text(text);
  std::vector<MathValue> readings;
  for (const bool thousands : {false, true}) {
    try {
      const std::vector<MathToken> tokens = math_tokens(text, thousands);
      if (thousands && std::ranges::none_of(tokens, &MathToken::thousands)) break;
      readings.push_back(Reader().read(tokens, 0));
      readings.back().text = nothing.text;
    } catch (const TooHard&) {
    }
  }
  if (readings.empty()) readings.push_back(nothing);
  return readings;
}

}  // namespace overproof
