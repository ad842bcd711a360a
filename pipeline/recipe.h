#pragma once
// A recipe: an INI file in which each section is one artifact to make.
//
//   [student]                      the artifact's name: the folder it stands in
//   stage = distill                which stage makes it; the section's name when left out
//   student = student-init         an input slot bound to another section; the section of the slot's name when left out
//   steps = 200                    an option of that stage
//
// Input slots that take a file from outside are paths relative to the recipe. `#` starts a comment. Sections may stand
// in any order: artifacts are made in the order their inputs ask for.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/json_fwd.h"
#include "pipeline/run_stage.h"

namespace overproof {

struct RecipeStep {
  std::string artifact;
  const StageSpec* spec = nullptr;
  std::unique_ptr<StageInstance> instance;
  std::map<std::string, std::string> artifacts;  ///< slot -> section
  std::map<std::string, fs::path> files;         ///< slot -> outside file
};

struct Recipe {
  fs::path path;
  std::vector<RecipeStep> steps;  ///< every step stands after its inputs
};

/// `overrides` are "section.key=value" from the command line. Throws UsageError naming section and key, with the nearest
/// known name; unknown keys, missing inputs and cycles are errors.
Recipe read_recipe(const fs::path& path, const std::vector<std::string>& overrides);

struct RecipeOptions {
  fs::path out;      ///< the run folder; artifacts stand in it under their section's name
  std::string only;  ///< stop after this artifact; empty: make all
  bool force = false;
  bool dry_run = false;
  bool json = false;                ///< one JSON object a line on standard output
  LineageEvents* events = nullptr;  ///< as in StageRequest
};

void run_recipe(const Recipe& recipe, const RecipeOptions& options, const Key& key);

/// What the stage said when a run made this artifact; empty when the run's log knows nothing of it.
std::vector<std::string> recall_summary(const fs::path& artifact, const Digest& root);

}  // namespace overproof
