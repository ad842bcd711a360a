#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <set>

#include "audit/facts.h"
#include "cli/verb.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "core/progress.h"
#include "core/real_path.h"
#include "core/utf8.h"
#include "pipeline/stage_registry.h"

namespace overproof {
namespace {

namespace po = boost::program_options;
namespace fs = std::filesystem;

/// The verb that `words` begins with, and how many words name it.
std::pair<const VerbSpec*, size_t> find_verb(const std::vector<std::string>& words) {
  std::vector<std::string> names;
  for (const VerbSpec& v : verbs()) {
    names.push_back(v.name);
    const size_t space = v.name.find(' ');
    if (space == std::string::npos
            ? words[0] == v.name
            : words.size() > 1 && words[0] == v.name.substr(0, space) && words[1] == v.name.substr(space + 1))
      return {&v, space == std::string::npos ? 1 : 2};
  }
  std::vector<std::string> second;
  for (const std::string& n : names)
    if (n.starts_with(words[0] + " ")) second.push_back(n.substr(words[0].size() + 1));
  if (!second.empty()) {
    const bool given = words.size() > 1 && !words[1].starts_with('-');
    const std::string near = given ? nearest(words[1], second) : "";
    throw UsageError(fmt::format("'{}' takes one of: {}{}", words[0], fmt::join(second, ", "),
                                 near.empty() ? "" : "; did you mean '" + near + "'?"));
  }
  if (const std::string_view renamed = renamed_stage(words[0]); !renamed.empty())
    throw UsageError(fmt::format("unknown verb '{}'; it is now {}", words[0], renamed));
  const std::string near = nearest(words[0], names);
  throw UsageError(fmt::format("unknown verb '{}'{}", words[0],
                               near.empty() ? "; 'overproof --help' lists them" : "; did you mean '" + near + "'?"));
}

/// Splits words into options and arguments. Words of options that the verb does not have are passed on as unregistered.
std::vector<po::option> parse_words(const VerbSpec& verb, const Options& options, const std::vector<std::string>& words) {
  po::options_description description;
  for (const Option& o : options) {
    if (o.type_name() == "flag")
      description.add_options()(o.name.c_str(), po::value<std::vector<std::string>>()->implicit_value({"true"}, "true"), "");
    else description.add_options()(o.name.c_str(), po::value<std::vector<std::string>>(), "");
  }
  // Flags take their value only as --flag=value: a following word is an argument.
  std::vector<std::string> joined;
  for (const std::string& word : words) {
    const bool flag = std::any_of(options.begin(), options.end(),
                                  [&](const Option& o) { return o.type_name() == "flag" && word == "--" + o.name; });
    joined.push_back(flag ? word + "=true" : word);
  }
  try {
    namespace style = po::command_line_style;
    return po::command_line_parser(joined)
        .options(description)
        .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
        .allow_unregistered()
        .run()
        .options;
  } catch (const po::error& e) {
    throw UsageError(fmt::format("{}: {}", verb.name, e.what()));
  }
}

/// Assigns what was parsed to the options, the arguments and, for names that the user chose, to the verb.
void assign_words(const VerbSpec& verb, VerbInstance& instance, Options& options, Arguments& arguments,
                  const std::vector<po::option>& parsed) {
  size_t placed = 0;
  std::set<std::string> seen;
  for (size_t i = 0; i < parsed.size(); ++i) {
    const po::option& o = parsed[i];
    if (o.position_key >= 0 || o.string_key.empty()) {
      for (const std::string& word : o.value) {
        if (placed >= arguments.size())
          throw UsageError(
              fmt::format("{}: '{}' is one argument too many; see 'overproof {} --help'", verb.name, word, verb.name));
        arguments[placed++] = word;
      }
      continue;
    }
    std::vector<std::string> values = o.value;
    if (o.unregistered) {
      if (!verb.named_inputs) find_option(options, o.string_key, verb.name);  // throws, with a hint
      // A name that the user chose: the parser may have taken its value for an argument.
      if (values.empty() && i + 1 < parsed.size() && parsed[i + 1].position_key >= 0) values = parsed[++i].value;
      if (values.empty()) throw UsageError(fmt::format("{}: --{} names a model and takes its folder", verb.name, o.string_key));
      instance.add_named_input(o.string_key, values.front());
      continue;
    }
    Option& option = find_option(options, o.string_key, verb.name);
    if (values.empty()) throw UsageError(fmt::format("{}: --{} takes a value ({})", verb.name, o.string_key, option.help));
    // A path is bytes; every other value is recorded and shown as text.
    if (!std::holds_alternative<std::filesystem::path*>(option.value) && invalid_utf8_at(values.front()) >= 0)
      throw UsageError(fmt::format("{}: the value of --{} is not UTF-8: '{}'", verb.name, o.string_key, values.front()));
    const bool again = !seen.insert(o.string_key).second;
    if (again && !option.repeats()) throw UsageError(fmt::format("{}: --{} is given twice", verb.name, o.string_key));
    if (instance.take_whole(o.string_key, values.front())) continue;
    if (again) option.append(values.front());
    else option.assign(values.front());
  }
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].empty() && verb.arguments[i].required)
      throw UsageError(fmt::format("{}: {} is missing ({}); see 'overproof {} --help'", verb.name, verb.arguments[i].name,
                                   verb.arguments[i].help, verb.name));
}

std::vector<std::string> values_of(const Option& option) {
  if (const auto path = std::get_if<fs::path*>(&option.value)) return {(*path)->string()};
  if (const auto text = std::get_if<std::string*>(&option.value)) return {**text};
  if (const auto list = std::get_if<StringList*>(&option.value)) return **list;
  std::vector<std::string> values;
  if (const auto map = std::get_if<StringMap*>(&option.value))
    for (const auto& [name, value] : **map) values.push_back(value);
  if (const auto pairs = std::get_if<StringPairs*>(&option.value))
    for (const auto& [name, value] : **pairs) values.push_back(value);
  return values;
}

bool holds_private_key(const fs::path& file) {
  if (!begins_with(file, "-----BEGIN") && !begins_with(file, "PRIVATE+KEY+")) return false;
  constexpr int64_t kMostBytes = 1 << 20;
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return error || int64_t(bytes) > kMostBytes || read_file(file).find("PRIVATE") != std::string::npos;
}

/// Of every verb: what it writes is no file that it reads, no private key, and in no sealed folder. Throws UsageError.
void check_outputs(const VerbSpec& verb, const Options& options, const Arguments& arguments) {
  std::vector<std::pair<std::string, std::string>> given;  // name and value, by option and by position
  for (const Option& o : options)
    for (std::string& value : values_of(o)) given.emplace_back(o.name, std::move(value));
  for (size_t i = 0; i < arguments.size(); ++i) given.emplace_back(verb.arguments[i].name, arguments[i]);
  std::error_code error;
  for (const auto& [name, written] : given) {
    if (name != "out" && name != "publish" && name != "signature" && name != "cache") continue;
    if (written.empty() || written == "-") continue;
    const fs::path path = written;
    for (const auto& [other, value] : given)
      if (other != name && !value.empty() && fs::is_regular_file(value, error) && fs::equivalent(value, path, error))
        throw UsageError(fmt::format("{}: {}: is the input '{}', so it cannot be the output", verb.name, path.string(), other));
    if (fs::is_regular_file(path, error) && holds_private_key(path))
      throw UsageError(fmt::format("{}: {}: holds a private key, which is never overwritten; name another file", verb.name, path.string()));
    if (name == "signature" || name == "cache") continue;  // key_verbs.cc: they may be in the folder that is signed, or must not
    // A run's own folder becomes the parent of its artifacts; anything else that is written replaces what is at that place.
    outside_artifacts(verb.name == "run" ? real_path(path) / "artifact" : real_path(path));
  }
}

void print_json_line(const Json& value) { fmt::print("{}\n", printable_json(dump_text(value))); }

}  // namespace

void print_answer(const Answer& answer, bool json) {
  // What a terminal would obey is shown; a file or another program gets the exact bytes.
  if (!json) fmt::print("{}", ::isatty(STDOUT_FILENO) ? printable_lines(answer.text) : answer.text);
  else if (answer.json.is_array()) std::ranges::for_each(answer.json, print_json_line);
  else if (!answer.json.is_null()) print_json_line(answer.json);
}

int run_command(const std::vector<std::string>& words) {
  if (words.empty()) {  // a script whose variable is empty should end here
    fmt::print(stderr, "{}", overview_help(false));
    return 2;
  }
  if (words[0] == "--help" || words[0] == "-h" || (words[0] == "help" && words.size() == 1)) {
    fmt::print("{}", overview_help(true));
    return 0;
  }
  if (words[0] == "help") {
    std::vector<std::string> asked(words.begin() + 1, words.end());
    asked.emplace_back("--help");
    return run_command(asked);
  }
  if (words[0] == "--version") return run_command({"version"});
  const auto [verb, verb_words] = find_verb(words);
  const std::vector<std::string> rest(words.begin() + ptrdiff_t(verb_words), words.end());
  if (std::any_of(rest.begin(), rest.end(), [](const std::string& w) { return w == "--help" || w == "-h"; })) {
    fmt::print("{}", verb_help(*verb));
    return 0;
  }

  const auto instance = verb->make();
  CommonConfig common;
  Arguments arguments(verb->arguments.size());
  Options options = instance->options();
  for (Option& o : options_of(common)) options.push_back(o);
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = verb->arguments[i].name;
    if (std::none_of(options.begin(), options.end(), [&](const Option& o) { return o.name == name; }))
      options.push_back({name, &arguments[i], any_value(), ""});
  }

  assign_words(*verb, *instance, options, arguments, parse_words(*verb, options, rest));
  check_outputs(*verb, options, arguments);
  ensure_program_has(instance->needs(arguments).value_or(verb->needs), verb->name, words);
  set_thread_count(common.threads);
  if (common.quiet || common.json) set_progress_mode(ProgressMode::off);
  const Answer answer = instance->run(common, arguments);
  print_answer(answer, common.json);
  return answer.exit_code;
}

}  // namespace overproof
