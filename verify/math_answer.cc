#include "verify/math_answer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "verify/math_tokens.h"

namespace overproof {
namespace {

using Kind = MathValue::Kind;

constexpr int kSignificantDigits = 6;
constexpr size_t kMostShown = 200;
constexpr int64_t kMostComparisons = 20'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

Judgement correct(std::string reason) { return {TaskVerdict::correct, std::move(reason)}; }
Judgement wrong(std::string reason) { return {TaskVerdict::wrong, std::move(reason)}; }
Judgement unknown(std::string reason) { return {TaskVerdict::unknown, std::move(reason)}; }

/// Units of measure, whose numbers differ for the same quantity.
bool is_measure(std::string_view unit) {
  static constexpr auto kUnits = std::to_array<std::string_view>(
      {"mm", "cm", "dm", "m", "km", "in", "inch", "inches", "ft", "foot", "feet", "yard", "yards", "mile", "miles", "meter", "meters", "metre",
       "metres", "centimeters", "kilometers", "ms", "s", "sec", "second", "seconds", "min", "minute", "minutes", "h", "hr", "hour", "hours", "day",
       "days", "week", "weeks", "month", "months", "year", "years", "mg", "g", "gram", "grams", "kg", "kilograms", "lb", "lbs", "pound", "pounds", "oz",
       "ounce", "ounces", "l", "ml", "liter", "liters", "litres", "gallon", "gallons", "cup", "cups", "cent", "cents", "dollar", "dollars", "degrees",
       "degree", "radian", "radians", "rad", "thousand", "million", "billion", "hundred", "dozen", "mph", "kmh", "pence"});
  return unit.find_first_of("^/*") != std::string_view::npos || std::ranges::find(kUnits, unit) != kUnits.end();
}

/// "dollar" and "dollars" are one unit.
std::string singular(std::string unit) {
  if (unit.size() > 2 && unit.ends_with('s') && !unit.ends_with("ss")) unit.pop_back();
  return unit;
}

/// Whether `decimal`, written with `decimals` digits behind the point, is `exact` rounded to as many.
bool is_rounded(const ExactNumber& exact, const ExactNumber& decimal, int decimals) {
  const auto a = exact.approximate(), b = decimal.approximate();
  return a && b && std::abs(*a - *b) <= 0.5 * std::pow(10.0, -decimals) * (1 + 1e-9);
}

int significant_digits(const ExactNumber& decimal, int decimals) {
  const auto value = decimal.approximate();
  if (!value || *value == 0) return 0;
  return int(std::floor(std::log10(std::abs(*value)))) + 1 + decimals;
}

bool within(const ExactNumber& expected, const ExactNumber& answer, double tolerance) {
  const auto a = expected.approximate(), b = answer.approximate();
  return tolerance > 0 && a && b && std::abs(*a - *b) <= tolerance * (*a == 0 ? 1 : std::abs(*a));
}

class Comparison {
 public:
  /// `steps`: how many comparisons of values are left; sets of sets take many.
  Comparison(double tolerance, int64_t& steps) : tolerance_(tolerance), steps_(steps) {}

  Judgement values(const MathValue& expected, const MathValue& answer) const {
    if (--steps_ < 0) return unknown("too many comparisons");
    if (!expected.text.empty() && expected.text == answer.text) return correct("the same text");
    if (expected.kind == Kind::text || answer.kind == Kind::text) return texts(expected.text, answer.text);
    if (!expected.defines.empty() && !answer.defines.empty() && expected.defines != answer.defines) return unknown("another letter is defined");
    try {
      if (expected.kind == Kind::number && answer.kind == Kind::number) return numbers(expected, answer);
      if (expected.kind == Kind::intervals || answer.kind == Kind::intervals) return intervals(expected, answer);
      if (expected.kind != Kind::number && answer.kind != Kind::number) return lists(expected, answer);
    } catch (const TooHard& e) {
      return unknown(e.cause);
    }
    return numbers_and_lists(expected, answer);
  }

 private:
  static Judgement texts(const std::string& expected, const std::string& answer) {
    const auto same = [](std::string_view a, std::string_view b) { return std::ranges::equal(a, b, {}, lower, lower); };
    if (!expected.empty() && same(expected, answer)) return correct("the same text");
    for (const auto& [yes, no] : {std::pair<std::string_view, std::string_view>{"yes", "no"}, {"true", "false"}})
      if ((same(expected, yes) && same(answer, no)) || (same(expected, no) && same(answer, yes))) return wrong("the opposite");
    return unknown("not understood as mathematics");
  }

  bool equal(const ExactNumber& expected, const ExactNumber& answer) const { return expected == answer || within(expected, answer, tolerance_); }

  Judgement numbers(const MathValue& expected, const MathValue& answer) const {
    const ExactNumber hundred(Rational(100));
    const ExactNumber a = expected.percent ? expected.number / hundred : expected.number;
    const ExactNumber b = answer.percent ? answer.number / hundred : answer.number;
    const bool units_differ = singular(expected.unit) != singular(answer.unit);
    const bool both_have_units = !expected.unit.empty() && !answer.unit.empty();
    if (units_differ && both_have_units) return unknown("the units differ");
    if (equal(a, b)) return correct("the same number");
    if (expected.percent != answer.percent && equal(expected.number, answer.number))
      return expected.percent ? correct("the same number, without the percent sign") : unknown("the same number of percent");
    if (units_differ && is_measure(expected.unit + answer.unit)) return unknown("only one has a unit");
    if (const auto rounded = as_rounded(expected, answer, a, b)) return *rounded;
    const auto letters = a.variables();
    if (letters != b.variables()) return unknown("other letters");
    if (!letters.empty()) return wrong("another expression");
    return wrong("another number");
  }

  std::optional<Judgement> as_rounded(const MathValue& expected, const MathValue& answer, const ExactNumber& a, const ExactNumber& b) const {
    // The expected number may be the rounded one, too, of what is no decimal itself.
    for (const bool of_answer : {true, false}) {
      const MathValue& written = of_answer ? answer : expected;
      if (written.decimals <= 0 || (!of_answer && answer.decimals >= 0)) continue;
      const int decimals = written.decimals + (written.percent ? 2 : 0);
      if (!(of_answer ? is_rounded(a, b, decimals) : is_rounded(b, a, decimals))) continue;
      const bool close = significant_digits(of_answer ? b : a, decimals) >= kSignificantDigits;
      return close ? correct("the same number, rounded") : unknown("the same number, rounded to few digits");
    }
    return std::nullopt;
  }

  static bool ordered(Kind kind) { return kind == Kind::tuple || kind == Kind::brackets; }

  Judgement lists(const MathValue& expected, const MathValue& answer) const {
    // (1, 2) with round brackets and [1, 2] are other things, and so are {1, 2} and both; a bare list may be any of them.
    const bool bare = expected.kind == Kind::list || answer.kind == Kind::list;
    if (expected.kind != answer.kind && !bare) {
      const bool interval_or_point = ordered(expected.kind) && ordered(answer.kind) && expected.items.size() == 2;
      const Judgement items = in_order(expected.items, answer.items);
      if (items.verdict != TaskVerdict::correct) return items.verdict == TaskVerdict::wrong ? wrong("other items") : items;
      return interval_or_point ? unknown("the same items in other brackets") : unknown("a set and a list");
    }
    const bool any_order = !ordered(expected.kind) && !ordered(answer.kind);
    return any_order ? in_any_order(distinct(expected.items), distinct(answer.items)) : in_order(expected.items, answer.items);
  }

  Judgement in_order(const std::vector<MathValue>& expected, const std::vector<MathValue>& answer) const {
    if (expected.size() != answer.size()) return wrong("another number of items");
    TaskVerdict all = TaskVerdict::correct;
    for (size_t i = 0; i < expected.size(); ++i) {
      const Judgement one = values(expected[i], answer[i]);
      if (one.verdict == TaskVerdict::wrong) return wrong("another item");
      if (one.verdict == TaskVerdict::unknown) all = TaskVerdict::unknown;
    }
    return all == TaskVerdict::correct ? correct("the same items") : unknown("an item that is not decided");
  }

  std::vector<MathValue> distinct(const std::vector<MathValue>& items) const {
    std::vector<MathValue> kept;
    for (const MathValue& item : items)
      if (std::ranges::none_of(kept, [&](const MathValue& k) { return Comparison(0, steps_).values(k, item).verdict == TaskVerdict::correct; })) kept.push_back(item);
    return kept;
  }

  Judgement in_any_order(const std::vector<MathValue>& expected, const std::vector<MathValue>& answer) const {
    std::vector<bool> used(answer.size());
    bool undecided = false;
    size_t found = 0;
    for (const MathValue& one : expected) {
      bool matched = false;
      for (size_t j = 0; j < answer.size() && !matched; ++j) {
        if (used[j]) continue;
        const TaskVerdict verdict = values(one, answer[j]).verdict;
        if (verdict == TaskVerdict::correct) used[j] = matched = true;
        undecided |= verdict == TaskVerdict::unknown;
      }
      found += matched;
    }
    if (found == expected.size() && found == answer.size()) return correct("the same items");
    return undecided ? unknown("an item that is not decided") : wrong("other items");
  }

  static std::optional<std::vector<MathInterval>> as_intervals(const MathValue& value) {
    if (value.kind == Kind::intervals) return value.intervals;
    if ((value.kind != Kind::tuple && value.kind != Kind::brackets) || value.items.size() != 2) return std::nullopt;
    for (const MathValue& item : value.items)
      if (item.kind != Kind::number) return std::nullopt;
    const bool closed = value.kind == Kind::brackets;
    return std::vector{MathInterval{value.items[0].number, value.items[1].number, closed, closed}};
  }

  bool same_interval(const MathInterval& a, const MathInterval& b) const {
    const auto same_end = [&](const std::optional<ExactNumber>& x, const std::optional<ExactNumber>& y) {
      return x.has_value() == y.has_value() && (!x || equal(*x, *y));
    };
    return a.low_closed == b.low_closed && a.high_closed == b.high_closed && same_end(a.low, b.low) && same_end(a.high, b.high);
  }

  Judgement intervals(const MathValue& expected, const MathValue& answer) const {
    auto a = as_intervals(expected), b = as_intervals(answer);
    if (!a || !b) return unknown("an interval and something else");
    const auto sort = [](std::vector<MathInterval>& list) {
      std::ranges::stable_sort(list, {}, [](const MathInterval& x) { return x.low ? x.low->approximate().value_or(0) : -HUGE_VAL; });
    };
    sort(*a), sort(*b);
    if (a->size() == b->size() && std::ranges::equal(*a, *b, [&](const auto& x, const auto& y) { return same_interval(x, y); }))
      return correct("the same intervals");
    if (a->size() == 1 && b->size() == 1) return wrong("another interval");
    return unknown("unions that are written otherwise");
  }

  /// A number and several: of a list of one, that one is compared.
  Judgement numbers_and_lists(const MathValue& expected, const MathValue& answer) const {
    const MathValue& list = expected.kind == Kind::number ? answer : expected;
    const MathValue& number = expected.kind == Kind::number ? expected : answer;
    if (list.items.size() == 1) return expected.kind == Kind::number ? values(expected, list.items[0]) : values(list.items[0], answer);
    if (list.items.size() == 2 && list.kind == Kind::list && number.decimals > 0) return unknown("a comma that may be a point");
    return wrong("one number and several");
  }

  double tolerance_;
  int64_t& steps_;
};

std::string shown(std::string_view answer) {
  std::string text(answer.substr(0, kMostShown));
  while (!text.empty() && answer.size() > kMostShown && (uint8_t(text.back()) & 0x80)) text.pop_back();
  return text;
}

char choice_letter(std::string_view text) {
  const std::string plain = without_layout(text);
  std::string_view rest = plain;
  for (const std::string_view wrapper : {"\\text{", "\\textbf{", "\\mathrm{", "**"})
    if (rest.starts_with(wrapper)) rest.remove_prefix(wrapper.size());
  if (rest.starts_with('(')) rest.remove_prefix(1);
  if (rest.empty()) return '\0';
  const char letter = rest[0] >= 'a' && rest[0] <= 'j' ? char(rest[0] - 'a' + 'A') : rest[0];
  if (letter < 'A' || letter > 'J') return '\0';
  if (rest.size() > 1 && std::string_view(").:,}* \t\n").find(rest[1]) == std::string_view::npos) return '\0';
  // "A car" is no choice; "B. a car" and "B) a car" are.
  if (rest.size() > 2 && rest[1] == ' ' && rest[0] != letter) return '\0';
  if (rest.size() > 2 && rest[1] == ' ' && (letter == 'A' || letter == 'I')) return '\0';
  return letter;
}

std::optional<std::string> boxed(std::string_view text) {
  for (size_t at = std::string_view::npos;;) {
    size_t found = std::string_view::npos, bytes = 0;
    for (const std::string_view command : {"\\boxed{", "\\fbox{"})
      if (const size_t place = text.rfind(command, at); place != std::string_view::npos && (found == std::string_view::npos || place > found))
        found = place, bytes = command.size();
    if (found == std::string_view::npos) return std::nullopt;
    int depth = 1;
    for (size_t i = found + bytes; i < text.size(); ++i) {
      depth += (text[i] == '{') - (text[i] == '}');
      if (depth == 0) return std::string(text.substr(found + bytes, i - found - bytes));
    }
    if (found == 0 || at != std::string_view::npos) return std::nullopt;  // the last two are looked at
    at = found - 1;
  }
}

/// To the end of the sentence or line.
std::string_view sentence(std::string_view text) {
  size_t end = std::min(text.find('\n'), text.size());
  for (size_t i = 0; i + 1 < end; ++i)
    if (text[i] == '.' && (text[i + 1] == ' ' || text[i + 1] == '*')) {
      end = i;
      break;
    }
  return text.substr(0, end);
}

/// Words before an answer that are no part of it.
std::string_view without_lead(std::string_view text) {
  for (bool again = true; again;) {
    again = false;
    while (!text.empty() && (text.front() == ' ' || text.front() == ':' || text.front() == '*' || text.front() == '_')) text.remove_prefix(1);
    for (const std::string_view lead : {"is ", "is: ", "the number ", "equal to ", "option ", "choice ", "therefore ", "simply ", "approximately "})
      if (text.size() > lead.size() && std::ranges::equal(text.substr(0, lead.size()), lead, {}, lower)) {
        text.remove_prefix(lead.size());
        again = true;
      }
  }
  return text;
}

std::optional<std::string> phrase(std::string_view text) {
  std::string small(text);
  std::ranges::transform(small, small.begin(), lower);
  size_t begin = std::string::npos;
  for (const std::string_view lead : {"answer is", "answer:", "answer**:", "answer:**", "####"})
    if (const size_t place = small.rfind(lead); place != std::string::npos)
      begin = begin == std::string::npos ? place + lead.size() : std::max(begin, place + lead.size());
  if (begin == std::string::npos) return std::nullopt;
  const std::string answer = without_layout(without_lead(sentence(text.substr(begin))));
  return answer.empty() ? std::nullopt : std::optional(answer);
}

std::optional<std::string> last_choice(std::string_view text) {
  for (size_t i = text.size(); i-- > 0;) {
    if (text[i] < 'A' || text[i] > 'J') continue;
    if (i > 0 && (is_letter(text[i - 1]) || is_digit(text[i - 1]) || text[i - 1] == '\'')) continue;
    if (i + 1 < text.size() && (is_letter(text[i + 1]) || is_digit(text[i + 1]) || text[i + 1] == '\'')) continue;
    if ((text[i] == 'A' || text[i] == 'I') && i + 1 < text.size() && text[i + 1] == ' ') continue;  // the words
    return std::string(1, text[i]);
  }
  return std::nullopt;
}

/// With its sign, thousands, decimals, a percent sign, and as a fraction.
std::optional<std::string> last_number(std::string_view text) {
  size_t end = text.size();
  while (end > 0 && !is_digit(text[end - 1])) --end;
  if (end == 0) return std::nullopt;
  const auto part_of_number = [&](size_t i) {
    const char c = text[i];
    if (is_digit(c)) return true;
    const bool between = i > 0 && is_digit(text[i - 1]) && i + 1 < end && is_digit(text[i + 1]);
    return between && (c == '.' || c == ',' || c == '/');
  };
  size_t begin = end - 1;
  while (begin > 0 && part_of_number(begin - 1)) --begin;
  if (begin > 1 && text[begin - 1] == '.' && !is_digit(text[begin - 2])) --begin;
  // A sign, and no operator of "7-3".
  if (begin > 0 && text[begin - 1] == '-' && (begin == 1 || (!is_digit(text[begin - 2]) && !is_letter(text[begin - 2]) && text[begin - 2] != ')'))) {
    const bool operation = begin > 2 && text[begin - 2] == ' ' && (is_digit(text[begin - 3]) || text[begin - 3] == ')');
    if (!operation) --begin;
  }
  std::string number(text.substr(begin, end - begin));
  // A comma that separates no thousands separates items: "3, 4" has a blank, "3,4" has not.
  if (const size_t comma = number.rfind(','); comma != std::string::npos && number.find_first_not_of("0123456789", comma + 1) - (comma + 1) != 3 &&
                                              number.size() - comma - 1 != 3)
    number = number.substr(comma + 1);
  if (end < text.size() && (text[end] == '%' || text.substr(end).starts_with("\\%"))) number += '%';
  return number;
}

}  // namespace

bool is_choice(std::string_view expected) {
  std::string plain = without_layout(expected);
  if (plain.starts_with("\\text{") && plain.ends_with('}')) plain = plain.substr(6, plain.size() - 7);
  if (plain.size() == 3 && plain.front() == '(' && plain.back() == ')') plain = plain.substr(1, 1);
  return plain.size() == 1 && plain[0] >= 'A' && plain[0] <= 'J';
}

std::optional<std::string> find_answer(std::string_view completion, AnswerPlace place, bool choice) {
  constexpr std::string_view kThought = "</think>";
  if (const size_t thought = completion.rfind(kThought); thought != std::string_view::npos) completion.remove_prefix(thought + kThought.size());
  if (place == AnswerPlace::any || place == AnswerPlace::boxed)
    if (auto found = boxed(completion); found || place == AnswerPlace::boxed) return found;
  if (place == AnswerPlace::any || place == AnswerPlace::phrase)
    if (auto found = phrase(completion); found || place == AnswerPlace::phrase) return found;
  return choice ? last_choice(completion) : last_number(completion);
}

Judgement compare_answers(std::string_view expected, std::string_view answer, double tolerance) {
  Judgement best = unknown("not understood as mathematics");
  if (is_choice(expected)) {
    const char wanted = choice_letter(expected), given = choice_letter(answer);
    best = given == '\0' ? unknown("no letter of a choice") : given == wanted ? correct("the same choice") : wrong("another choice");
  } else {
    bool first = true;
    int64_t steps = kMostComparisons;
    const Comparison comparison(tolerance, steps);
    for (const MathValue& a : read_math(expected))
      for (const MathValue& b : read_math(answer)) {
        const Judgement one = comparison.values(a, b);
        if (first || one.verdict == TaskVerdict::correct || (one.verdict == TaskVerdict::unknown && best.verdict == TaskVerdict::wrong))
          if (best.verdict != TaskVerdict::correct || first) best = one;
        first = false;
      }
  }
  best.answer = shown(answer);
  return best;
}

}  // namespace overproof
