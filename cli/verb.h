#pragma once
// A verb of the command line: its options and its function. Help, the reference page and the parser are made from this.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "pipeline/needs.h"
#include "pipeline/stage_registry.h"

namespace overproof {

/// An argument given by position. It can be given by name, too: `overproof run --recipe FILE`.
struct Argument {
  std::string name;
  std::string help;
  bool required = true;
};

/// One text for each declared argument, "" where an optional one is left out.
using Arguments = std::vector<std::string>;

/// Options that every verb takes.
struct CommonConfig {
  bool json = false, quiet = false;
  int64_t threads = 0;
  template <class V>
  void visit(V&& v) {
    v("json", json, any_value(), "machine-readable output, one JSON value a line");
    v("quiet", quiet, any_value(), "no progress bars");
    v("threads", threads, in_range(0, 1024), "number of threads; 0: all cores");
  }
};

class VerbInstance {
 public:
  virtual ~VerbInstance() = default;
  virtual Options options() = 0;
  /// --NAME VALUE with a name that is no option, of a verb with `named_inputs`.
  virtual void add_named_input(const std::string& name, const std::string& value);
  /// Takes the value of an option as it is, where commas do not separate list elements. False: the option parses it.
  virtual bool take_whole(const std::string&, const std::string&) { return false; }
  /// Where options or arguments decide what is needed; else nothing. Called once, before run().
  virtual std::optional<Needs> needs(const Arguments&) { return std::nullopt; }
  /// The answer has neither JSON nor text where the verb has printed while it ran.
  virtual Answer run(const CommonConfig& common, const Arguments& arguments) = 0;
};

using VerbMaker = std::function<std::unique_ptr<VerbInstance>()>;

struct VerbSpec {
  std::string name;  ///< one or two words: "teach", "audit verify"
  VerbGroup group = VerbGroup::program;
  std::string help;
  std::string example;
  std::vector<Argument> arguments = {};
  bool named_inputs = false;  ///< takes --NAME DIR under names that the user chooses (evaluate)
  Needs needs = Needs::nothing;
  VerbMaker make;
};

/// Binds a config struct and a function (common, config, arguments) -> Answer.
template <class Config, class Run>
VerbMaker verb_maker(Run run) {
  class Instance final : public VerbInstance {
   public:
    explicit Instance(Run run) : run_(run) {}
    Options options() override { return options_of(config_); }
    Answer run(const CommonConfig& common, const Arguments& arguments) override { return run_(common, config_, arguments); }

   private:
    Config config_;
    Run run_;
  };
  return [run] { return std::make_unique<Instance>(run); };
}

/// Binds a function (config, path...) -> Answer: each argument of the verb is a path.
template <class Config, class... Paths>
VerbMaker make_verb(Answer (*run)(const Config&, Paths...)) {
  return verb_maker<Config>([run](const CommonConfig&, const Config& config, const Arguments& arguments) {
    return [&]<size_t... i>(std::index_sequence<i...>) {
      return run(config, std::filesystem::path(arguments[i])...);
    }(std::index_sequence_for<Paths...>());
  });
}

/// All verbs, in the order of the pipeline.
const std::vector<VerbSpec>& verbs();

/// Prints an answer to standard output: with `json` one JSON value a line, an array's elements one a line; else the text.
void print_answer(const Answer& answer, bool json);

/// The whole command line without the program's name. Prints to standard output; throws what main turns into exit codes.
int run_command(const std::vector<std::string>& words);

/// Where to start, and the verbs in groups; with `details` also the exit codes.
std::string overview_help(bool details);
std::string verb_help(const VerbSpec& verb);
/// docs/reference.md: every verb and every option, in Markdown.
std::string reference_page();

}  // namespace overproof
