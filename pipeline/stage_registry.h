#pragma once
// Every stage there is: its name, its inputs, its options, and the function that does the work. The command line, recipes,
// the reference page and provenance statements are all made from this one table.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/json_fwd.h"
#include "core/stage.h"

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
  bool streamed = false;  ///< the stage digests its files while it reads them (Outputs::note_input_digest): gigabytes are read once
  std::string unless =
      {};  ///< another slot: when that is given, this one is not asked for (prune takes one of two kinds of model)
};

/// A stage's configuration bound to its function.
class StageInstance {
 public:
  virtual ~StageInstance() = default;
  virtual Options options() = 0;
  virtual StageReport run(const Inputs& inputs, Outputs& outputs) const = 0;
};

struct StageSpec {
  std::string name;     ///< "teach": the verb, and `stage =` in a recipe
  std::string edge;     ///< how the new artifact hangs on its inputs: "taught", "carved-from", ...
  std::string help;     ///< one line
  std::string example;  ///< a command line that works
  std::vector<Slot> slots;
  bool more_models = false;  ///< takes any number of further artifacts under names of the user's choice (evaluate)
  std::function<std::unique_ptr<StageInstance>()> make;
  /// Asked before the stage runs, after its inputs were checked; what it returns stands in the signed metrics as "policy". It
  /// throws what holds the stage back.
  std::function<Json(const StageRequest&)> admit;
};

/// All stages, in the order of the pipeline.
const std::vector<StageSpec>& stages();
/// Throws UsageError with the nearest name.
const StageSpec& find_stage(std::string_view name, std::string_view where);

/// Binds `Config` and `run` to a spec's `make`.
template <class Config, class Run>
std::function<std::unique_ptr<StageInstance>()> stage_maker(Run run) {
  class Instance final : public StageInstance {
   public:
    explicit Instance(Run run) : run_(run) {}
    Options options() override { return options_of(config_); }
    StageReport run(const Inputs& inputs, Outputs& outputs) const override { return run_(config_, inputs, outputs); }

   private:
    Config config_;
    Run run_;
  };
  return [run] { return std::make_unique<Instance>(run); };
}

}  // namespace overproof
