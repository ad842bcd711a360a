#pragma once
// One definition per option. A config struct lists its members once:
//
//   struct TeachConfig {
//     int64_t draws = 50;
//     Mode mode = Mode::sample;
//     template <class V> void visit(V&& v) {
//       v("draws", draws, in_range(1, 63), "tokens drawn from the teacher at each position");
//       v("mode", mode, enum_of<Mode>({{"sample", Mode::sample}, {"top-k", Mode::top_k}}), "how a row of soft targets is made");
//     }
//   };
//
// From that list come the command-line option, the recipe key, --help, the reference page, validation with
// "did you mean", and the JSON recorded in the provenance statement. Member types:
//
//   type                                text                     JSON
//   bool                                true | false             boolean
//   int64_t, double                     a number                 number
//   std::string, fs::path               any text                 string
//   an enum, with enum_of               one of its names         string
//   std::optional<int64_t | double>     a number, or the word    number, or the word as a string
//     with or_word("auto", range)         for "no value"
//   StringList                          comma-separated          array of strings
//   StringMap                           comma-separated K=V      object of strings
//   StringPairs                         the same, in order       array of "K=V" strings
//
// Lists, maps and paths of statements that were signed as one comma-separated string are still read.

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

using StringList = std::vector<std::string>;
using StringMap = std::map<std::string, std::string>;
/// For options in which the order of the pairs has a meaning; a key may occur more than once.
using StringPairs = std::vector<std::pair<std::string, std::string>>;

/// Accepted values. Numbers: an inclusive interval. Strings and list elements: one of `choices`, or anything if it is empty.
struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  StringList choices;
  std::string unset;  ///< optional numbers: the word for "no value"
};
inline Range any_value() { return {}; }
inline Range in_range(double least, double most) { return {least, most, {}, {}}; }
inline Range at_least(double least) { return {least, std::numeric_limits<double>::infinity(), {}, {}}; }
inline Range one_of(StringList choices) { return {-1, -1, std::move(choices), {}}; }
inline Range or_word(std::string word, Range range) { return range.unset = std::move(word), range; }
/// Seeds are recorded in JSON, which carries integers exactly up to 2^53 - 1 only (RFC 7493, section 2.2).
inline Range seed_value() { return in_range(0, 9007199254740991.0); }

/// The names of an enum's values, in the order of --help.
template <class E>
struct EnumNames {
  std::vector<std::pair<std::string, E>> names;
};
template <class E>
EnumNames<E> enum_of(std::vector<std::pair<std::string, E>> names) {
  return {std::move(names)};
}

/// An enum member of a config struct, as an index into Range::choices.
struct EnumValue {
  void* member = nullptr;
  std::vector<int64_t> values;  ///< of Range::choices, in the same order
  int64_t (*get)(const void*) = nullptr;
  void (*set)(void*, int64_t) = nullptr;
};

/// One member of a config struct, seen through its visit().
struct Option {
  using Value = std::variant<bool*, int64_t*, double*, std::string*, StringList*, StringMap*, std::filesystem::path*,
                             std::optional<int64_t>*, std::optional<double>*, EnumValue, StringPairs*>;
  std::string name;  ///< lower-case words with '-': "learning-rate"
  Value value;
  Range range;
  std::string help;

  std::string text() const;            ///< the current value as a recipe would spell it
  void assign(std::string_view text);  ///< parses, validates; throws UsageError naming option, value and what is allowed
  void append(std::string_view text);  ///< lists and maps: adds to the current value (an option given several times)
  void check() const;                  ///< validates the current value
  std::string type_name() const;       ///< "flag", "integer", "number", "text", "list", "map", "path", "pairs"
  bool repeats() const;                ///< whether append() is possible
};
using Options = std::vector<Option>;

/// The options of a config struct, in order. They point into `config`, which must outlive them.
template <class Config>
Options options_of(Config& config) {
  Options list;
  config.visit([&]<class T, class R>(std::string_view name, T& member, R range, std::string_view help) {
    if constexpr (std::is_enum_v<T>) {
      EnumValue value{&member, {}, [](const void* m) { return int64_t(*static_cast<const T*>(m)); },
                      [](void* m, int64_t x) { *static_cast<T*>(m) = T(x); }};
      Range choices;
      for (auto& [word, one] : range.names) choices.choices.push_back(word), value.values.push_back(int64_t(one));
      list.push_back({std::string(name), std::move(value), std::move(choices), std::string(help)});
    } else {
      list.push_back({std::string(name), &member, std::move(range), std::string(help)});
    }
  });
  return list;
}

/// The option called `name`; else throws UsageError: «`where`: unknown option 'tpo-k'; did you mean 'top-k'?».
Option& find_option(Options& options, std::string_view name, std::string_view where);

Json to_json(const Options& options);
/// Sets every option from a JSON object made by to_json; unknown keys, other types and values out of range throw
/// FormatError naming `origin`.
void from_json(Options& options, const Json& object, const std::filesystem::path& origin);

/// The number that all of `text` is, from `least` to `most`; else nothing.
std::optional<double> number_in(std::string_view text, double least, double most);

/// Splits at commas and trims spaces; empty parts are left out.
StringList split_list(std::string_view text);

/// The candidate nearest to `word` by edit distance, or "" when none is near (distance over a third of its length).
std::string nearest(std::string_view word, const StringList& candidates);

}  // namespace overproof
