#include "pipeline/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"
#include "pipeline/metrics_summary.h"
#include "pipeline/run_log.h"

namespace overproof {
namespace {

namespace po = boost::program_options;

struct Section {
  std::string name;
  std::vector<std::pair<std::string, std::string>> keys;
};

/// "section.key = value" triples in the order of the file, grouped by section.
std::vector<Section> read_sections(const fs::path& path, const StringList& overrides) {
  std::ifstream stream(path);
  if (!stream) throw IoError(path, "cannot open this recipe", errno);
  std::vector<Section> sections;
  std::set<std::string> seen;
  const auto put = [&](const std::string& dotted, const std::string& value, bool replace, const std::string& where) {
    const size_t dot = dotted.rfind('.');  // no key has one, a section's name may
    if (dot == std::string::npos || dot == 0) throw UsageError(fmt::format("{}: '{}' is outside any [section]", where, dotted));
    const std::string name = dotted.substr(0, dot), key = dotted.substr(dot + 1);
    if (!is_safe_relative_name(name) || name.find('/') != std::string::npos || name.front() == '.')
      throw UsageError(fmt::format("{}: '{}' cannot be the name of an artifact", where, name));
    auto section = std::find_if(sections.begin(), sections.end(), [&](const Section& s) { return s.name == name; });
    if (section == sections.end()) {
      if (replace) {
        std::vector<std::string> names;
        for (const Section& s : sections) names.push_back(s.name);
        const std::string near = nearest(name, names);
        throw UsageError(fmt::format("{}: the recipe has no section [{}]{}", where, name,
                                     near.empty() ? "" : "; did you mean [" + near + "]?"));
      }
      section = sections.insert(sections.end(), Section{name, {}});
    }
    const auto known = std::find_if(section->keys.begin(), section->keys.end(), [&](const auto& k) { return k.first == key; });
    if (known == section->keys.end()) section->keys.emplace_back(key, value);
    else if (replace) known->second = value;
    else throw UsageError(fmt::format("{}: [{}] gives '{}' twice", where, name, key));
  };
  try {
    const po::options_description nothing;
    for (const auto& option : po::parse_config_file(stream, nothing, true).options)
      put(option.string_key, option.value.empty() ? "" : option.value.front(), false, path.string());
  } catch (const po::invalid_config_file_syntax& e) {
    // Not e.what(): that fills the line into a template until no placeholder is left, and the line may hold the placeholder.
    throw UsageError(fmt::format("{}: the line '{}' is neither a [section] nor key = value", path.string(), e.tokens()));
  } catch (const po::error& e) {
    throw UsageError(fmt::format("{}: {}", path.string(), e.what()));
  }
  for (const std::string& o : overrides) {
    const size_t equals = o.find('=');
    if (equals == std::string::npos) throw UsageError(fmt::format("--set takes section.key=value, not '{}'", o));
    put(o.substr(0, equals), o.substr(equals + 1), true, "--set " + o);
  }
  if (sections.empty()) throw UsageError(fmt::format("{}: the recipe has no [section]", path.string()));
  return sections;
}

RecipeStep make_step(const Section& section, const std::vector<std::string>& names, const fs::path& recipe) {
  const std::string where = fmt::format("{}: [{}]", recipe.string(), section.name);
  RecipeStep step;
  step.artifact = section.name;
  std::string stage = section.name;
  for (const auto& [key, value] : section.keys)
    if (key == "stage") stage = value;
  step.spec = &find_stage(stage, where);
  step.instance = step.spec->make();
  Options options = step.instance->options();
  // Slots are looked up together with the options, so that a typo in either gets the right hint.
  std::vector<std::string> slot_values(step.spec->slots.size());
  for (size_t i = 0; i < slot_values.size(); ++i) options.push_back({step.spec->slots[i].name, &slot_values[i], any_value(), ""});

  const auto known_section = [&](const std::string& value) {
    return std::find(names.begin(), names.end(), value) != names.end();
  };
  for (const auto& [key, value] : section.keys) {
    if (key == "stage") continue;
    const bool is_option = std::any_of(options.begin(), options.end(), [&key = key](const Option& o) { return o.name == key; });
    if (step.spec->more_models && !is_option && known_section(value)) {
      step.artifacts[key] = value;
      continue;
    }
    // Further models have any name, so either word may be the wrong one.
    if (step.spec->more_models && !is_option) {
      std::vector<std::string> option_names;
      for (const Option& o : options) option_names.push_back(o.name);
      const std::string section_near = nearest(value, names), option_near = nearest(key, option_names);
      throw UsageError(fmt::format("{}: '{} = {}' names no section{}, and {} has no option '{}'{}", where, key, value,
                                   section_near.empty() ? "" : " (did you mean '" + section_near + "'?)", stage, key,
                                   option_near.empty() ? "" : "; did you mean '" + option_near + "'?"));
    }
    try {
      find_option(options, key, where).assign(value);
    } catch (const UsageError& e) {
      const std::string message = e.what();
      throw UsageError(message.starts_with(where) ? message : where + ": " + message);
    }
  }
  for (size_t i = 0; i < slot_values.size(); ++i) {
    const Slot& slot = step.spec->slots[i];
    std::string& value = slot_values[i];
    if (slot.kind == Slot::Kind::file) {
      if (!value.empty()) step.files[slot.name] = (recipe.parent_path() / value).lexically_normal();
      else if (slot.required) throw UsageError(fmt::format("{}: '{}' is missing ({})", where, slot.name, slot.help));
      continue;
    }
    // An optional input is bound only when it is named: one that changes nothing would still be part of the lineage.
    if (value.empty() && slot.required && known_section(slot.name) && slot.name != section.name) value = slot.name;
    if (value.empty() && slot.required)
      throw UsageError(
          fmt::format("{}: the input '{}' is missing ({}); name the section that makes it", where, slot.name, slot.help));
    if (value.empty()) continue;
    if (!known_section(value)) {
      const std::string near = nearest(value, names);
      throw UsageError(fmt::format("{}: '{} = {}' names no section{}", where, slot.name, value,
                                   near.empty() ? "" : "; did you mean '" + near + "'?"));
    }
    step.artifacts[slot.name] = value;
  }
  return step;
}

/// "a -> b -> a": each artifact needs the next. Every step in `waiting` needs another one in it.
std::string cycle_in(const std::vector<RecipeStep>& waiting) {
  std::vector<std::string> path = {waiting.front().artifact};
  while (true) {
    const auto step =
        std::find_if(waiting.begin(), waiting.end(), [&](const RecipeStep& s) { return s.artifact == path.back(); });
    const auto needed = std::find_if(step->artifacts.begin(), step->artifacts.end(), [&](const auto& a) {
      return std::any_of(waiting.begin(), waiting.end(), [&](const RecipeStep& s) { return s.artifact == a.second; });
    });
    const auto seen = std::find(path.begin(), path.end(), needed->second);
    if (seen != path.end()) {
      path.erase(path.begin(), seen);
      path.push_back(path.front());
      return fmt::format("{}", fmt::join(path, " -> "));
    }
    path.push_back(needed->second);
  }
}

}  // namespace

Recipe read_recipe(const fs::path& path, const StringList& overrides) {
  const std::vector<Section> sections = read_sections(path, overrides);
  std::vector<std::string> names;
  for (const Section& s : sections) names.push_back(s.name);
  std::vector<RecipeStep> waiting;
  for (const Section& s : sections) waiting.push_back(make_step(s, names, path));

  Recipe recipe{path, {}};
  std::set<std::string> made;
  while (!waiting.empty()) {
    const auto ready = std::find_if(waiting.begin(), waiting.end(), [&](const RecipeStep& s) {
      return std::all_of(s.artifacts.begin(), s.artifacts.end(), [&](const auto& a) { return made.contains(a.second); });
    });
    if (ready == waiting.end()) throw UsageError(fmt::format("{}: dependency cycle: {}", path.string(), cycle_in(waiting)));
    made.insert(ready->artifact);
    recipe.steps.push_back(std::move(*ready));
    waiting.erase(ready);
  }
  return recipe;
}

namespace {

/// The number of steps up to the artifact `only`; all when it is empty.
size_t steps_until(const Recipe& recipe, const std::string& only) {
  const auto last =
      std::find_if(recipe.steps.begin(), recipe.steps.end(), [&](const RecipeStep& s) { return s.artifact == only; });
  return last == recipe.steps.end() ? recipe.steps.size() : size_t(last - recipe.steps.begin()) + 1;
}

Answer step_answer(const RecipeStep& step, const StageResult& result, const std::vector<std::string>& summary) {
  const bool made = result.status == StageStatus::made;
  Answer answer;
  answer.json = {{"artifact", step.artifact},
                 {"stage", step.spec->name},
                 {"status", made ? "made" : "unchanged"},
                 {"root", "sha256:" + result.root.hex()},
                 {"seconds", result.seconds},
                 {"metrics", result.report.metrics()}};
  for (const std::string& line : summary) answer.text += fmt::format("      {}\n", printable(line));
  answer.text += fmt::format("      {} sha256:{} in {:.1f} s\n", made ? "made" : "unchanged,", result.root.hex().substr(0, 16),
                             result.seconds);
  return answer;
}

}  // namespace

void require_artifact(const Recipe& recipe, const std::string& only) {
  std::vector<std::string> names;
  for (const RecipeStep& s : recipe.steps) names.push_back(s.artifact);
  if (only.empty() || std::find(names.begin(), names.end(), only) != names.end()) return;
  const std::string near = nearest(only, names);
  throw UsageError(
      fmt::format("the recipe makes no artifact '{}'{}", only, near.empty() ? "" : "; did you mean '" + near + "'?"));
}

Needs recipe_needs(const Recipe& recipe, const std::string& only) {
  const auto end = recipe.steps.begin() + ptrdiff_t(steps_until(recipe, only));
  return std::any_of(recipe.steps.begin(), end,
                     [](const RecipeStep& s) { return needs_of(*s.spec, *s.instance) == Needs::torch; })
             ? Needs::torch
             : Needs::nothing;
}

void run_recipe(const Recipe& recipe, const RecipeOptions& options, const Key& key) {
  require_artifact(recipe, options.only);
  const RunLog log(options.out);
  std::set<std::string> stale;  // dry run: artifacts that would be made, and so would what depends on them
  for (size_t i = 0; i < steps_until(recipe, options.only); ++i) {
    throw_if_interrupted();
    const RecipeStep& step = recipe.steps[i];
    StageRequest request{step.spec, step.instance.get(), step.files, options.out / step.artifact, options.force, options.events};
    for (const auto& [slot, artifact] : step.artifacts) request.inputs[slot] = options.out / artifact;
    const std::string title = fmt::format("[{}/{}] {} ({})", i + 1, recipe.steps.size(), step.artifact, step.spec->name);
    if (options.dry_run) {
      const bool upstream =
          std::any_of(step.artifacts.begin(), step.artifacts.end(), [&](const auto& a) { return stale.contains(a.second); });
      const bool keep = !upstream && !options.force && is_unchanged(request);
      if (!keep) stale.insert(step.artifact);
      options.report({{{"artifact", step.artifact}, {"stage", step.spec->name}, {"would", keep ? "keep" : "make"}},
                      fmt::format("{}: {}\n", title, keep ? "unchanged, would be kept" : "would be made")});
      continue;
    }
    options.report({{}, title + "\n"});
    const StageResult result = run_stage(request, key);
    if (result.status == StageStatus::made) log.remember(step.artifact, {result.root, result.seconds, result.report.summary});
    // Of an unchanged artifact the statement is printed: run.json is unsigned.
    options.report(step_answer(step, result, result.status == StageStatus::made ? result.report.summary
                                                                                : metrics_summary(result.report.metrics())));
  }
}

}  // namespace overproof
