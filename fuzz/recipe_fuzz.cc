// Recipes and configurations: any bytes are refused with an error of ours, or give steps in the order of their inputs, with
// options in their ranges, which read back from the JSON of a statement.

#include <set>

#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"
#include "pipeline/recipe.h"
#include "pipeline/run_log.h"

using namespace overproof;

namespace {

void check_options(StageInstance& instance) {
  Options options = instance.options();
  const Json written = to_json(options);
  for (const Option& option : options) option.check();
  from_json(options, written, "again");
  fuzz::require(to_json(options) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  folder.put("recipe.ini", text);
  try {
    const Recipe recipe = read_recipe(folder / "recipe.ini", {});
    std::set<std::string> made;
    for (const RecipeStep& step : recipe.steps) {
      for (const auto& [slot, artifact] : step.artifacts) fuzz::require(made.contains(artifact));
      fuzz::require(made.insert(step.artifact).second);
      check_options(*step.instance);
    }
  } catch (const UsageError&) {
  }
  // The configuration in a foreign statement.
  try {
    const Json json = parse_json(text, "statement");
    for (const StageSpec& spec : stages()) {
      const auto instance = spec.make();
      Options options = instance->options();
      try {
        from_json(options, json, "statement");
        check_options(*instance);
      } catch (const FormatError&) {
      } catch (const UsageError&) {
      }
    }
  } catch (const FormatError&) {
  }
  // The log of an earlier run: it is informative only, so faults in it are ignored.
  folder.put("run.json", text);
  RunLog(folder.path()).remember("student", {});
  return 0;
}
