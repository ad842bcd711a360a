#include "core/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

std::string shown(double x) { return fmt::format("{}", x); }

std::string allowed(const Option& o) {
  if (!o.range.choices.empty()) return fmt::format("one of {}", fmt::join(o.range.choices, ", "));
  const bool low = std::isfinite(o.range.least), high = std::isfinite(o.range.most);
  const bool integer = std::holds_alternative<int64_t*>(o.value) || std::holds_alternative<std::optional<int64_t>*>(o.value);
  std::string what = integer ? "an integer" : "a number";
  if (low && high) what += fmt::format(" from {} to {}", shown(o.range.least), shown(o.range.most));
  else if (low) what += fmt::format(" of at least {}", shown(o.range.least));
  else if (high) what += fmt::format(" of at most {}", shown(o.range.most));
  return o.range.unset.empty() ? what : fmt::format("'{}' or {}", o.range.unset, what);
}

[[noreturn]] void refuse(const Option& o, std::string_view text, const std::string& wanted) {
  std::string message = fmt::format("option '{}': '{}' is not {}", o.name, text, wanted);
  if (const std::string near = nearest(text, o.range.choices); !near.empty())
    message += fmt::format("; did you mean '{}'?", near);
  throw UsageError(message);
}

template <class T>
T parsed_number(const Option& o, std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || !std::isfinite(double(value)) || double(value) < o.range.least || double(value) > o.range.most)
    refuse(o, text, allowed(o));
  return value;
}

void check_choice(const Option& o, std::string_view text) {
  if (!o.range.choices.empty() && std::find(o.range.choices.begin(), o.range.choices.end(), text) == o.range.choices.end())
    refuse(o, text, allowed(o));
}

/// Parses `text` into the member of `o`. One overload a type.
struct Assign {
  const Option& o;
  std::string_view text;

  void operator()(bool* member) const {
    if (text == "true" || text == "yes" || text == "on" || text == "1") *member = true;
    else if (text == "false" || text == "no" || text == "off" || text == "0") *member = false;
    else refuse(o, text, "true or false");
  }
  void operator()(int64_t* member) const { *member = parsed_number<int64_t>(o, text); }
  void operator()(double* member) const { *member = parsed_number<double>(o, text); }
  void operator()(std::string* member) const {
    check_choice(o, text);
    *member = text;
  }
  void operator()(fs::path* member) const { *member = text; }
  template <class T>
  void operator()(std::optional<T>* member) const {
    if (text == o.range.unset) member->reset();
    else *member = parsed_number<T>(o, text);
  }
  void operator()(StringList* member) const {
    StringList parts = split_list(text);
    for (const std::string& part : parts) check_choice(o, part);
    *member = std::move(parts);
  }
  void operator()(StringPairs* member) const {
    StringPairs parts;
    for (const std::string& part : split_list(text)) {
      const size_t equals = part.find('=');
      if (equals == std::string::npos || equals == 0) refuse(o, part, "KEY=VALUE");
      parts.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    }
    *member = std::move(parts);
  }
  void operator()(StringMap* member) const {
    StringPairs parts;
    (*this)(&parts);
    StringMap map;
    for (auto& [key, value] : parts)
      if (!map.emplace(key, std::move(value)).second)
        throw UsageError(fmt::format("option '{}': '{}' is given twice", o.name, key));
    *member = std::move(map);
  }
  void operator()(const EnumValue& member) const {
    check_choice(o, text);
    const auto found = std::find(o.range.choices.begin(), o.range.choices.end(), text);
    member.set(member.member, member.values[size_t(found - o.range.choices.begin())]);
  }
};

std::string enum_name(const Option& o, const EnumValue& e) {
  const auto found = std::find(e.values.begin(), e.values.end(), e.get(e.member));
  OVERPROOF_CHECK(found != e.values.end());
  return o.range.choices[size_t(found - e.values.begin())];
}

template <class Pairs>
std::string joined(const Pairs& pairs) {
  std::string text;
  for (const auto& [key, value] : pairs) text += fmt::format("{}{}={}", text.empty() ? "" : ",", key, value);
  return text;
}

struct Text {
  const Option& o;
  std::string operator()(const bool* member) const { return *member ? "true" : "false"; }
  std::string operator()(const int64_t* member) const { return fmt::format("{}", *member); }
  std::string operator()(const double* member) const { return fmt::format("{}", *member); }  // shortest text that reads back equal
  std::string operator()(const std::string* member) const { return *member; }
  std::string operator()(const fs::path* member) const { return member->string(); }
  template <class T>
  std::string operator()(const std::optional<T>* member) const {
    return *member ? fmt::format("{}", **member) : o.range.unset;
  }
  std::string operator()(const StringList* member) const { return fmt::format("{}", fmt::join(*member, ",")); }
  std::string operator()(const StringMap* member) const { return joined(*member); }
  std::string operator()(const StringPairs* member) const { return joined(*member); }
  std::string operator()(const EnumValue& member) const { return enum_name(o, member); }
};

struct ToJson {
  const Option& o;
  template <class T>
  Json operator()(const T* member) const {
    return *member;
  }
  Json operator()(const fs::path* member) const { return member->string(); }
  template <class T>
  Json operator()(const std::optional<T>* member) const {
    return *member ? Json(**member) : Json(o.range.unset);
  }
  Json operator()(const EnumValue& member) const { return enum_name(o, member); }
  Json operator()(const StringPairs* member) const {
    Json array = Json::array();
    for (const auto& [key, value] : *member) array.push_back(key + "=" + value);
    return array;
  }
};

/// Sets the member of `o` from JSON; false where the JSON has another type.
struct FromJson {
  Option& o;
  const Json& json;

  bool text() const {
    if (json.is_string()) o.assign(json.get<std::string>());
    return json.is_string();
  }
  template <class T>
  bool operator()(T*) const {
    const bool fits = std::is_same_v<T, bool>      ? json.is_boolean()
                      : std::is_same_v<T, int64_t> ? json.is_number_integer()
                      : std::is_same_v<T, double>  ? json.is_number()
                                                   : json.is_string();
    if (!fits || json.is_string()) return fits && text();
    o.assign(json.dump());
    return true;
  }
  template <class T>
  bool operator()(std::optional<T>*) const {
    return json.is_string() ? text() : (*this)(static_cast<T*>(nullptr));
  }
  bool operator()(StringList* member) const {
    if (!json.is_array()) return text();
    StringList parts;
    for (const Json& part : json) {
      if (!part.is_string()) return false;
      check_choice(o, part.get_ref<const std::string&>());
      parts.push_back(part.get<std::string>());
    }
    *member = std::move(parts);
    return true;
  }
  bool operator()(StringMap* member) const {
    if (!json.is_object()) return text();
    StringMap parts;
    for (const auto& [key, value] : json.items()) {
      if (!value.is_string()) return false;
      parts[key] = value.get<std::string>();
    }
    *member = std::move(parts);
    return true;
  }
  bool operator()(const EnumValue&) const { return text(); }
  bool operator()(StringPairs*) const {
    if (!json.is_array()) return text();
    std::string list;
    for (const Json& part : json) {
      if (!part.is_string()) return false;
      list += (list.empty() ? "" : ",") + part.get<std::string>();
    }
    o.assign(list);
    return true;
  }
};

}  // namespace

std::string Option::text() const { return std::visit(Text{*this}, value); }

std::string Option::type_name() const {
  static constexpr const char* kNames[] = {"flag", "integer", "number", "text", "list", "map", "path", "integer", "number", "text", "pairs"};
  static_assert(std::size(kNames) == std::variant_size_v<Value>);
  return kNames[value.index()];
}

void Option::assign(std::string_view given) { std::visit(Assign{*this, given}, value); }

bool Option::repeats() const {
  return std::holds_alternative<StringList*>(value) || std::holds_alternative<StringMap*>(value) ||
         std::holds_alternative<StringPairs*>(value);
}

void Option::append(std::string_view given) {
  OVERPROOF_CHECK(repeats());
  const std::string before = text();
  assign(before.empty() ? std::string(given) : before + "," + std::string(given));
}

void Option::check() const {
  const std::string now = text();
  // Checks by assigning to a copy of the member, so that only assign() has the rules.
  std::visit(
      [&]<class T>(const T& member) {
        if constexpr (std::is_same_v<T, EnumValue>) {
          check_choice(*this, now);
        } else {
          std::remove_pointer_t<T> scratch{};
          (void)member;
          Assign{*this, now}(&scratch);
        }
      },
      value);
}

std::optional<double> number_in(std::string_view text, double least, double most) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most)) return std::nullopt;
  return value;
}

StringList split_list(std::string_view text) {
  StringList parts;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string_view part = text.substr(0, comma);
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    if (!part.empty()) parts.emplace_back(part);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = word.size() / 3;
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
  for (const Option& o : options) object[o.name] = std::visit(ToJson{o}, o.value);
  return object;
}

void from_json(Options& options, const Json& object, const fs::path& origin) {
  if (!object.is_object()) throw FormatError(origin, -1, "the configuration is not a JSON object");
  for (const auto& [key, value] : object.items()) {
    try {
      Option& o = find_option(options, key, "the configuration");
      if (!std::visit(FromJson{o, value}, o.value))
        throw UsageError(fmt::format("option '{}': {} is of the wrong type", key, value.dump().substr(0, 80)));
    } catch (const UsageError& e) {  // what would be a typing mistake on the command line
      throw FormatError(origin, -1, e.what());
    }
  }
}

}  // namespace overproof
