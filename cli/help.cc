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

/// Breaks `text` at blanks; lines after the first start at column `indent`.
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

/// Removes the options of `group` from `options` if all of them are in it with the same meaning; returns whether they were.
bool remove_group(Options& options, const Options& group) {
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

/// Error::kind() and Error::exit_code() (core/error.h), for users.
struct ExitCode {
  int code;
  const char* kind;
  const char* meaning;
};
constexpr ExitCode kExitCodes[] = {
    {0, "", "success; an audit found no fault"},
    {1, "", "gpu --self-test: a device computes other values than the CPU"},
    {2, "usage", "the command line, a recipe or a configuration is wrong"},
    {3, "format", "the content of a file is invalid"},
    {4, "provenance", "a statement, signature or digest does not hold, or an audit found a fault"},
    {5, "io", "a file is missing, a disk is full, or another process holds a lock"},
    {6, "quality", "the result does not keep a bound that the user has set"},
    {7, "mismatch", "the inputs are valid, but do not belong together"},
    {8, "divergence", "a loss, a gradient or logits are not finite"},
    {70, "internal", "a bug in overproof"},
    {130, "interrupted", "SIGINT or SIGTERM; run the same command to resume"},
};

constexpr std::pair<VerbGroup, const char*> kGroups[] = {
    {VerbGroup::run, "Make a run from a recipe"},
    {VerbGroup::use, "Use and look at models"},
    {VerbGroup::data, "Stages: models and texts"},
    {VerbGroup::teacher, "Stages: what a teacher gives"},
    {VerbGroup::student, "Stages: students"},
    {VerbGroup::prune, "Stages: pruning"},
    {VerbGroup::result, "Stages: 8 bits, GGUF, measurements"},
    {VerbGroup::audit, "Audit a run"},
    {VerbGroup::keys, "Keys and signatures"},
    {VerbGroup::program, "This program"},
};

}  // namespace

std::string overview_help(bool details) {
  std::string text =
      "overproof distils a language model into a sparse mixture of experts, compresses it to 8 bits,\n"
      "calibrates its router, and records and checks the provenance of the result.\n\n"
      "Where to start\n"
      "  overproof run examples/kill-test.ini --out runs/first       a whole run with a tiny teacher: offline, a minute\n"
      "  overproof audit report runs/first                           its report: models, licences, what is proved\n"
      "  overproof inspect MODEL                                     what a model of yours is, and what it can be used for\n"
      "  overproof run examples/smollm2-moe.ini --dry-run            what a real run would make, and what it would take\n";
  for (const auto& [group, title] : kGroups) {
    text += fmt::format("\n{}\n", title);
    for (const VerbSpec& v : verbs())
      if (v.group == group) text += fmt::format("  {:<18}{}\n", v.name, wrap(v.help, 20));
  }
  if (details) {
    text += "\nExit codes\n";
    for (const ExitCode& e : kExitCodes) text += fmt::format("  {:<5}{:<13}{}\n", e.code, e.kind, wrap(e.meaning, 20));
  }
  text += fmt::format("\n'overproof VERB --help' describes one verb; docs/reference.md describes all.{}\n",
                      details ? "" : " 'overproof --help' also lists the exit codes.");
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
      const std::string head = o.type_name() != "flag"         ? fmt::format("--{} {}", o.name, limits(o))
                               : o.text() == "true" ? fmt::format("--{}=false", o.name)
                                                            : "--" + o.name;
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
      "# Reference\n\nEvery verb and every option, printed by `overproof reference`; a test compares this page with the program.\n"
      "The options of a stage are also the keys of its section in a recipe.\n\n";
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
  // Options that many verbs share are described once, and referred to by each verb.
  const std::pair<const char*, Options> shared[] = {{"Options of verbs that sign", options_of(key)},
                                                    {"Options of verbs that check signatures", options_of(trust)}};
  page += "## Exit codes\n\nWith `--json` an error is also one JSON object on standard output: `error` (the kind), `message`, `exit_code`.\n\n"
          "| code | kind | meaning |\n|---|---|---|\n";
  for (const ExitCode& e : kExitCodes) page += fmt::format("| {} | {} | {} |\n", e.code, e.kind, e.meaning);
  page += "\n## Options of every verb\n\n";
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
      if (remove_group(options, group)) {
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
