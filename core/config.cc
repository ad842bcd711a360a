#include "core/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

std::string shown(double x) { return fmt::format("{}", x); }

std::string allowed(const Option& o) {
  if (!o.range.choices.empty()) return fmt::format("one of {}", fmt::join(o.range.choices, ", "));
  const bool low = std::isfinite(o.range.least), high = std::isfinite(o.range.most);
  const std::string what = std::holds_alternative<int64_t*>(o.value) ? "an integer" : "a number";
  if (low && high) return fmt::format("{} from {} to {}", what, shown(o.range.least), shown(o.range.most));
  if (low) return fmt::format("{} of at least {}", what, shown(o.range.least));
  if (high) return fmt::format("{} of at most {}", what, shown(o.range.most));
  return what;
}

[[noreturn]] void refuse(const Option& o, std::string_view text, const std::string& wanted) {
  std::string message = fmt::format("option '{}': '{}' is not {}", o.name, text, wanted);
  if (const std::string near = nearest(text, o.range.choices); !near.empty())
    message += fmt::format("; did you mean '{}'?", near);
  throw UsageError(message);
}

template <class T>
bool parse_number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string Option::text() const {
  if (auto* b = std::get_if<bool*>(&value)) return **b ? "true" : "false";
  if (auto* i = std::get_if<int64_t*>(&value)) return fmt::format("{}", **i);
  if (auto* d = std::get_if<double*>(&value)) return fmt::format("{}", **d);  // shortest text that reads back equal
  return *std::get<std::string*>(value);
}

std::string Option::type_name() const {
  static constexpr const char* kNames[] = {"flag", "integer", "number", "text"};
  return kNames[value.index()];
}

void Option::assign(std::string_view given) {
  if (auto* b = std::get_if<bool*>(&value)) {
    if (given == "true" || given == "yes" || given == "on" || given == "1" || given.empty()) **b = true;
    else if (given == "false" || given == "no" || given == "off" || given == "0") **b = false;
    else refuse(*this, given, "true or false");
    return;
  }
  if (auto* i = std::get_if<int64_t*>(&value)) {
    int64_t parsed = 0;
    if (!parse_number(given, parsed) || double(parsed) < range.least || double(parsed) > range.most)
      refuse(*this, given, allowed(*this));
    **i = parsed;
    return;
  }
  if (auto* d = std::get_if<double*>(&value)) {
    double parsed = 0;
    if (!parse_number(given, parsed) || !std::isfinite(parsed) || parsed < range.least || parsed > range.most)
      refuse(*this, given, allowed(*this));
    **d = parsed;
    return;
  }
  if (!range.choices.empty() && std::find(range.choices.begin(), range.choices.end(), given) == range.choices.end())
    refuse(*this, given, allowed(*this));
  *std::get<std::string*>(value) = std::string(given);
}

void Option::check() const {
  Option copy = *this;
  bool b = false;
  int64_t i = 0;
  double d = 0;
  std::string s;
  switch (value.index()) {  // assign() into a scratch value does all the checking there is
    case 0:
      copy.value = &b;
      break;
    case 1:
      copy.value = &i;
      break;
    case 2:
      copy.value = &d;
      break;
    default:
      copy.value = &s;
      break;
  }
  copy.assign(text());
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = word.size() / 3 + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    std::vector<size_t> before = row, before2;
    for (size_t i = 1; i <= word.size(); ++i) {  // Damerau-Levenshtein: swapped neighbours count once
      before2 = before;
      before = row;
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        row[j] = std::min({before[j] + 1, row[j - 1] + 1, before[j - 1] + (word[i - 1] != candidate[j - 1])});
        if (i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1])
          row[j] = std::min(row[j], before2[j - 2] + 1);
      }
    }
    if (row.back() <= best_distance && (best.empty() || row.back() < best_distance)) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

Option& find_option(Options& options, std::string_view name, std::string_view where) {
  for (Option& o : options)
    if (o.name == name) return o;
  std::vector<std::string> names;
  for (const Option& o : options) names.push_back(o.name);
  std::string message = fmt::format("{}: unknown option '{}'", where, name);
  if (const std::string near = nearest(name, names); !near.empty()) message += fmt::format("; did you mean '{}'?", near);
  else message += fmt::format("; known are {}", fmt::join(names, ", "));
  throw UsageError(message);
}

Json to_json(const Options& options) {
  Json object = Json::object();
  for (const Option& o : options) std::visit([&](auto* p) { object[o.name] = *p; }, o.value);
  return object;
}

void from_json(Options& options, const Json& object, std::string_view where) {
  if (!object.is_object()) throw UsageError(fmt::format("{}: the configuration is not a JSON object", where));
  for (const auto& [key, value] : object.items()) {
    Option& o = find_option(options, key, where);
    const bool fits = std::visit(
        [&value = value](auto* member) {  // a binding by itself is not captured by clang 14
          using T = std::remove_pointer_t<decltype(member)>;
          if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
          else if constexpr (std::is_same_v<T, int64_t>) return value.is_number_integer();
          else if constexpr (std::is_same_v<T, double>) return value.is_number();
          else return value.is_string();
        },
        o.value);
    if (!fits) throw UsageError(fmt::format("{}: option '{}': {} is of the wrong type", where, key, value.dump().substr(0, 80)));
    o.assign(value.is_string() ? value.get<std::string>() : value.dump());
  }
}

}  // namespace overproof
