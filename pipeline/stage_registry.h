#pragma once
// All stages: name, inputs, options, and the function that does the work. The command line, recipes, the reference page and
// provenance statements are made from this one table, which is the same in every build.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/json_fwd.h"
#include "core/stage.h"
#include "pipeline/needs.h"

namespace overproof {

struct StageRequest;

/// One input of a stage.
struct Slot {
  std::string name;
  std::string help;
  enum class Kind {
    artifact,  ///< a folder made by another stage
    file,      ///< a file or folder from outside; recorded by digest, never by path
  } kind = Kind::artifact;
  bool required = true;
  bool streamed = false;  ///< the stage digests the files while it reads them (Outputs::note_input_digest): read once
  /// A file slot that holds the secret of a private corpus: where it is bound, this slot's digest is recorded under that secret, so
  /// that it confirms no guess. "": none.
  std::string hidden_by = {};
};

/// What a stage or another verb is for, as `overproof --help` groups them.
enum class VerbGroup { run, use, data, teacher, student, prune, result, audit, keys, program };

/// A stage's configuration bound to its function.
class StageInstance {
 public:
  virtual ~StageInstance() = default;
  virtual Options options() = 0;
  virtual StageReport run(const Inputs& inputs, Outputs& outputs) const = 0;
  /// Where the configuration decides what is needed: the config struct has a function needs(). Else nothing.
  virtual std::optional<Needs> needs() const { return std::nullopt; }
  /// Where the configuration decides whether its artifact is what a server answered (StageSpec::asks_server): the config struct has asks_server().
  virtual bool asks_server() const { return false; }
};

struct StageSpec {
  std::string name;     ///< "teach": the verb, and `stage =` in a recipe
  VerbGroup group = VerbGroup::data;
  std::string kind;     ///< of the artifact's lineage (provenance/lineage_kinds.h): "taught", "carved-from", ...
  std::string help;     ///< one line
  std::string example;  ///< a command line that works
  std::vector<Slot> slots;
  bool more_models = false;  ///< takes any number of further artifacts under names that the user chooses (evaluate)
  std::string more_option = "models", more_help = "models to compare";  ///< the option that gives them together
  bool more_by_name = true;  ///< --NAME FOLDER gives one, too; else an unknown option is a mistake
  Needs needs = Needs::nothing;
  bool asks_server = false;  ///< its artifact is what a server answered: no audit makes it again, which would send and pay for requests
  std::function<std::unique_ptr<StageInstance>()> make;
  /// Called before the stage runs, after its inputs were checked. Its result is recorded in the signed metrics as "policy"; it
  /// throws to refuse the run.
  std::function<Json(const StageRequest&)> admit = {};

  /// nullptr for an artifact under a name of the user's choice.
  const Slot* find_slot(std::string_view slot) const;
  bool is_file(std::string_view slot) const;  ///< a slot that takes a file from outside
};

/// All stages, in the order of the pipeline.
const std::vector<StageSpec>& stages();
/// Throws UsageError with the nearest name, or with the new name of a stage that was renamed.
const StageSpec& find_stage(std::string_view name, std::string_view where);
/// What to use instead of a stage that existed in version 0.1 under another name: "'carve'"; "" for any other name.
std::string_view renamed_stage(std::string_view name);
/// What this configuration of a stage needs.
Needs needs_of(const StageSpec& spec, const StageInstance& instance);

/// Binds `Config` and `run` to a spec's `make`.
template <class Config, class Run>
std::function<std::unique_ptr<StageInstance>()> stage_maker(Run run) {
  class Instance final : public StageInstance {
   public:
    explicit Instance(Run run) : run_(run) {}
    Options options() override { return options_of(config_); }
    StageReport run(const Inputs& inputs, Outputs& outputs) const override { return run_(config_, inputs, outputs); }
    std::optional<Needs> needs() const override {
      if constexpr (requires { config_.needs(); }) return config_.needs();
      else return std::nullopt;
    }
    bool asks_server() const override {
      if constexpr (requires { config_.asks_server(); }) return config_.asks_server();
      else return false;
    }

   private:
    Config config_;
    Run run_;
  };
  return [run] { return std::make_unique<Instance>(run); };
}

}  // namespace overproof
