#pragma once
// A verb of the command line: what it takes, what it does. Help, the reference page and the parser are made from this.

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/answer.h"
#include "core/config.h"

namespace overproof {

/// An argument given by place. Given by name it works too: `overproof run --recipe FILE`.
struct Argument {
  std::string name;
  std::string help;
  bool required = true;
};

/// Options that every verb takes.
struct CommonConfig {
  bool json = false, quiet = false;
  int64_t threads = 0;
  template <class V>
  void visit(V&& v) {
    v("json", json, any_value(), "machine-readable output, one JSON value a line");
    v("quiet", quiet, any_value(), "no progress bars");
    v("threads", threads, in_range(0, 1024), "threads to compute with; 0: all cores");
  }
};

class VerbInstance {
 public:
  virtual ~VerbInstance() = default;
  virtual Options options() = 0;
  /// `arguments` has one text for each declared argument, "" where an optional one is left out. The answer has neither JSON nor
  /// text where the verb has printed while it ran.
  virtual Answer run(const CommonConfig& common, const std::vector<std::string>& arguments) = 0;
};

struct VerbSpec {
  std::string name;  ///< one or two words: "teach", "audit verify"
  std::string help;
  std::string example;
  std::vector<Argument> arguments;
  bool repeatable = false;    ///< takes --set any number of times (recipes)
  bool named_inputs = false;  ///< takes --NAME DIR of the user's choice (evaluate)
  std::function<std::unique_ptr<VerbInstance>()> make;
};

/// Binds a config struct and a function (common, config, arguments) -> Answer; an int is the exit code of a verb that prints.
template <class Config, class Run>
std::function<std::unique_ptr<VerbInstance>()> verb_maker(Run run) {
  class Instance final : public VerbInstance {
   public:
    explicit Instance(Run run) : run_(run) {}
    Options options() override { return options_of(config_); }
    Answer run(const CommonConfig& common, const std::vector<std::string>& arguments) override {
      if constexpr (std::is_same_v<std::invoke_result_t<Run&, const CommonConfig&, const Config&, const std::vector<std::string>&>, int>)
        return {{}, {}, run_(common, config_, arguments)};
      else return run_(common, config_, arguments);
    }

   private:
    Config config_;
    Run run_;
  };
  return [run] { return std::make_unique<Instance>(run); };
}

/// All verbs, in the order of the pipeline.
const std::vector<VerbSpec>& verbs();

/// Prints an answer to standard output: with `json` one JSON value a line, an array's elements one a line; else the text.
void print_answer(const Answer& answer, bool json);

/// The whole command line without the program's name. Prints to standard output; throws what main turns into exit codes.
int run_command(const std::vector<std::string>& words);

std::string overview_help();
std::string verb_help(const VerbSpec& verb);
/// docs/reference.md: every verb and every option, in Markdown.
std::string reference_page();

}  // namespace overproof
