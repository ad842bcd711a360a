#pragma once
// One definition per option. A config struct lists its members once:
//
//   struct TeachConfig {
//     int64_t draws = 50;
//     std::string mode = "sample";
//     template <class V> void visit(V&& v) {
//       v("draws", draws, in_range(1, 63), "tokens drawn from the teacher at each position");
//       v("mode", mode, one_of({"sample", "top-k"}), "how a row of soft targets is made");
//     }
//   };
//
// From that list come the command-line option, the recipe key, --help, the reference page, validation with
// "did you mean", and the JSON recorded in the provenance statement.

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

/// What values an option takes. Numbers: an inclusive interval. Strings: a list, or anything when it is empty.
struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;
};
inline Range any_value() { return {}; }
inline Range in_range(double least, double most) { return {least, most, {}}; }
inline Range at_least(double least) { return {least, std::numeric_limits<double>::infinity(), {}}; }
inline Range one_of(std::vector<std::string> choices) { return {-1, -1, std::move(choices)}; }

/// One member of a config struct, seen through its visit().
struct Option {
  std::string name;  ///< lower-case words with '-': "learning-rate"
  std::variant<bool*, int64_t*, double*, std::string*> value;
  Range range;
  std::string help;

  std::string text() const;            ///< the current value as a recipe would spell it
  void assign(std::string_view text);  ///< parses, validates; throws UsageError naming option, value and what is allowed
  void check() const;                  ///< validates the current value
  std::string type_name() const;       ///< "flag", "integer", "number", "text"
};
using Options = std::vector<Option>;

/// The options of a config struct, in order. They point into `config`, which must outlive them.
template <class Config>
Options options_of(Config& config) {
  Options list;
  config.visit([&](std::string_view name, auto& member, Range range, std::string_view help) {
    static_assert(std::is_same_v<decltype(member), bool&> || std::is_same_v<decltype(member), int64_t&> ||
                  std::is_same_v<decltype(member), double&> || std::is_same_v<decltype(member), std::string&>);
    list.push_back({std::string(name), &member, std::move(range), std::string(help)});
  });
  return list;
}

/// The option called `name`; else throws UsageError: «`where`: unknown option 'tpo-k'; did you mean 'top-k'?».
Option& find_option(Options& options, std::string_view name, std::string_view where);

Json to_json(const Options& options);
/// Sets every option from a JSON object made by to_json; unknown keys, other types and values out of range throw UsageError.
void from_json(Options& options, const Json& object, std::string_view where);

/// The candidate nearest to `word` by edit distance, or "" when none is near (distance over a third of its length).
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace overproof
