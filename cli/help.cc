#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "cli/verb.h"
#include "provenance/key_rotation.h"

namespace overproof {
namespace {

std::string limits(const Option& o) {
  if (!o.range.choices.empty()) return fmt::format("{}", fmt::join(o.range.choices, "|"));
  return o.type_name();
}

/// `text` broken at blanks so that lines after the first start at column `indent`.
std::string wrap(const std::string& text, size_t indent, size_t width = 100) {
  std::string out;
  size_t column = indent, begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    if (column > indent && column + 1 + end - begin > width) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(begin, end - begin);
    column += end - begin;
    begin = end + 1;
  }
  return out;
}

std::string usage(const VerbSpec& verb) {
  std::string line = "overproof " + verb.name;
  for (const Argument& a : verb.arguments) line += a.required ? " " + a.name : " [" + a.name + "]";
  return line + " [options]";
}

/// Removes the options of `group` where all of them are there, meaning the same. Whether they were.
bool take_away(Options& options, const Options& group) {
  const auto is_in = [](const Options& list, const Option& o) {
    return std::any_of(list.begin(), list.end(),
                       [&](const Option& x) { return x.name == o.name && x.help == o.help && x.text() == o.text(); });
  };
  if (!std::all_of(group.begin(), group.end(), [&](const Option& o) { return is_in(options, o); })) return false;
  std::erase_if(options, [&](const Option& o) { return is_in(group, o); });
  return true;
}

std::string default_text(const Option& o) {
  const std::string value = o.text();
  return value.empty() || value == "false" ? "" : " (default " + value + ")";
}

}  // namespace

std::string overview_help() {
  std::string text =
      "overproof distils a language model into a sparse mixture of experts, compresses it to 8 bits,\n"
      "calibrates its router, and proves where it came from.\n\n"
      "  overproof run examples/smollm2-moe.ini --out runs/smollm2-moe    everything, as a recipe says\n"
      "  overproof audit verify runs/smollm2-moe                          check files, signatures, lineage\n"
      "  overproof generate runs/smollm2-moe/int8 --prompt 'A pipe is'    let a model speak\n\nVerbs\n";
  for (const VerbSpec& v : verbs()) text += fmt::format("  {:<18}{}\n", v.name, wrap(v.help, 20));
  text +=
      "\n'overproof VERB --help' says what a verb takes. Exit codes: 0 done, 2 usage, 3 bad file content, 4 provenance does\n"
      "not hold, 5 input/output, 6 a bound on quality does not hold, 70 a bug of ours, 130 interrupted.\n";
  return text;
}

std::string verb_help(const VerbSpec& verb) {
  std::string text = fmt::format("{}\n\n  {}\n", wrap(verb.help, 0), usage(verb));
  if (!verb.example.empty()) text += fmt::format("\nExample\n  {}\n", verb.example);
  if (!verb.arguments.empty()) {
    text += "\nArguments\n";
    for (const Argument& a : verb.arguments) text += fmt::format("  {:<26}{}\n", a.name, wrap(a.help, 28));
  }
  const auto list = [&](const char* title, const Options& options) {
    if (options.empty()) return;
    text += fmt::format("\n{}\n", title);
    for (const Option& o : options) {
      const std::string head = o.type_name() == "flag" ? "--" + o.name : fmt::format("--{} {}", o.name, limits(o));
      text += head.size() < 26 ? fmt::format("  {:<26}", head) : fmt::format("  {}\n{:28}", head, "");
      text += wrap(o.help + default_text(o), 28) + "\n";
    }
  };
  const auto instance = verb.make();
  list("Options", instance->options());
  CommonConfig common;
  list("Options of every verb", options_of(common));
  return text;
}

std::string reference_page() {
  std::string page =
      "# Reference\n\nEvery verb and every option, made by `overproof reference`; a test holds this page to the program.\n"
      "A stage's options are also the keys of its section in a recipe.\n\n";
  const auto table = [&](const Options& options) {
    page += "| option | takes | default | meaning |\n|---|---|---|---|\n";
    for (const Option& o : options) {
      std::string takes = limits(o);
      for (size_t at = 0; (at = takes.find('|', at)) != std::string::npos; at += 2) takes.insert(at, "\\");
      page += fmt::format("| `--{}` | {} | {} | {} |\n", o.name, takes, o.text().empty() ? "" : "`" + o.text() + "`", o.help);
    }
    page += '\n';
  };
  CommonConfig common;
  KeyOptions key;
  TrustOptions trust;
  // Options that many verbs share are described once, and named where they are taken.
  const std::pair<const char*, Options> shared[] = {{"Options of verbs that sign", options_of(key)},
                                                    {"Options of verbs that check signatures", options_of(trust)}};
  page += "## Options of every verb\n\n";
  table(options_of(common));
  for (const auto& [title, options] : shared) {
    page += fmt::format("## {}\n\n", title);
    table(options);
  }
  for (const VerbSpec& v : verbs()) {
    page += fmt::format("## {}\n\n{}\n\n    {}\n\n", v.name, v.help, usage(v));
    if (!v.example.empty()) page += fmt::format("Example: `{}`\n\n", v.example);
    for (const Argument& a : v.arguments) page += fmt::format("- `{}`: {}\n", a.name, a.help);
    if (!v.arguments.empty()) page += '\n';
    const auto instance = v.make();
    Options options = instance->options();
    std::string also;
    for (const auto& [title, group] : shared)
      if (take_away(options, group)) {
        std::string anchor = title;
        for (char& c : anchor) c = c == ' ' ? '-' : char(std::tolower(c));
        also += fmt::format("{}[{}](#{})", also.empty() ? "" : " and the ", char(std::tolower(title[0])) + std::string(title + 1),
                            anchor);
      }
    if (!options.empty()) table(options);
    if (!also.empty()) page += fmt::format("{} {}.\n\n", options.empty() ? "Takes the" : "And the", also);
  }
  while (page.ends_with("\n\n")) page.pop_back();
  return page;
}

}  // namespace overproof
