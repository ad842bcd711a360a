#pragma once
// A recipe: an INI file in which each section is one artifact to make.
//
//   [student]                      name of the artifact and of its folder
//   stage = distill                the stage that makes it; default: the section's name
//   student = student-init         an input slot bound to another section; default: the section with the slot's name
//   steps = 200                    an option of that stage
//
// Input slots that take a file from outside are paths relative to the recipe. `#` starts a comment at the beginning of a
// line, or between blanks; elsewhere it is a part of the value. Sections may be in any order:
// an artifact is made after its inputs.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/answer.h"
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
  std::vector<RecipeStep> steps;  ///< every step comes after its inputs
};

/// `overrides` are "section.key=value" from the command line. Throws UsageError naming section and key, with the nearest
/// known name; unknown keys, missing inputs and cycles are errors. Throws IoError when the file cannot be read.
Recipe read_recipe(const fs::path& path, const StringList& overrides);

/// Throws UsageError unless the recipe makes the artifact `only`, or `only` is empty.
void require_artifact(const Recipe& recipe, const std::string& only);

/// What the steps up to the artifact `only` need; of all steps when it is empty.
Needs recipe_needs(const Recipe& recipe, const std::string& only);

struct RecipeOptions {
  fs::path out;      ///< the run folder, which holds one artifact folder for each section
  std::string only;  ///< stop after this artifact; empty: make all
  bool force = false;
  bool dry_run = false;
  LineageEvents* events = nullptr;     ///< as in StageRequest
  const PublicKey* trusted = nullptr;  ///< as in StageRequest; the key that the run signs with must be one of its successors
  /// Called while the recipe runs: with a text when a step begins, with JSON and text when it has ended.
  std::function<void(const Answer&)> report = [](const Answer&) {};
};

/// Makes the artifacts in order. Returns the hints of the keys that artifacts and inputs are signed with, each once; none of a dry run. Throws
/// what a stage throws; artifacts that were finished before stay.
std::vector<std::string> run_recipe(const Recipe& recipe, const RecipeOptions& options, const Key& key);

}  // namespace overproof
