#include "pipeline/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"

namespace overproof {
namespace {

namespace po = boost::program_options;

struct Section {
  std::string name;
  std::vector<std::pair<std::string, std::string>> keys;
};

/// "section.key = value" triples in the order of the file, grouped by section.
std::vector<Section> read_sections(const fs::path& path, const std::vector<std::string>& overrides) {
  std::ifstream stream(path);
  if (!stream) throw IoError(path, "cannot open this recipe", errno);
  std::vector<Section> sections;
  std::set<std::string> seen;
  const auto put = [&](const std::string& dotted, const std::string& value, bool replace, const std::string& where) {
    const size_t dot = dotted.rfind('.');  // no key has one, a section's name may
    if (dot == std::string::npos || dot == 0) throw UsageError(fmt::format("{}: '{}' stands in no [section]", where, dotted));
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
  // Slots stand beside the options when a key is looked for, so that a typo in either is met with the right hint.
  std::vector<std::string> slot_values(step.spec->slots.size());
  for (size_t i = 0; i < slot_values.size(); ++i) options.push_back({step.spec->slots[i].name, &slot_values[i], any_value(), ""});

  const auto known_section = [&](const std::string& value) {
    return std::find(names.begin(), names.end(), value) != names.end();
  };
  for (const auto& [key, value] : section.keys) {
    if (key == "stage") continue;
    if (step.spec->more_models && known_section(value) &&
        std::none_of(options.begin(), options.end(), [&key = key](const Option& o) { return o.name == key; })) {
      step.artifacts[key] = value;
      continue;
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
    bool required = slot.required;
    for (size_t j = 0; j < slot_values.size(); ++j)
      if (step.spec->slots[j].name == slot.unless && !slot_values[j].empty()) required = false;
    // What is optional is taken only when it is named: an input that changes nothing would still be part of the lineage.
    if (value.empty() && required && known_section(slot.name) && slot.name != section.name) value = slot.name;
    if (value.empty() && required)
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

}  // namespace

Recipe read_recipe(const fs::path& path, const std::vector<std::string>& overrides) {
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
    if (ready == waiting.end())
      throw UsageError(fmt::format("{}: [{}] and the artifacts it needs ask for one another in a circle", path.string(),
                                   waiting.front().artifact));
    made.insert(ready->artifact);
    recipe.steps.push_back(std::move(*ready));
    waiting.erase(ready);
  }
  return recipe;
}

namespace {

/// What a run said of each artifact when it was made, so that a second run can say it again. Convenience only: timings
/// differ from run to run, so they are in no artifact and nothing is signed.
class RunLog {
 public:
  explicit RunLog(const fs::path& folder) : file_(folder / "run.json") {
    std::error_code ignored;
    if (!fs::exists(file_, ignored)) return;
    try {
      log_ = read_json(file_);
    } catch (const FormatError&) {
      log_ = Json::object();  // it can be written anew
    }
    if (!log_.is_object()) log_ = Json::object();
  }
  void remember(const std::string& artifact, const StageResult& result) {
    log_[artifact] = {{"root", result.root.hex()}, {"seconds", result.seconds}, {"summary", result.report.summary}};
    write_file_atomically(file_, log_.dump(1) + "\n");
  }
  std::vector<std::string> recall(const std::string& artifact, const Digest& root) const {
    const auto it = log_.find(artifact);
    std::vector<std::string> lines;
    if (it == log_.end() || !it->is_object() || it->value("root", Json()) != root.hex()) return lines;
    for (const Json& line : it->value("summary", Json::array()))
      if (line.is_string()) lines.push_back(line.get<std::string>());  // anybody may have written into it
    return lines;
  }

 private:
  fs::path file_;
  Json log_ = Json::object();
};

}  // namespace

std::vector<std::string> recall_summary(const fs::path& artifact, const Digest& root) {
  const fs::path folder = fs::absolute(artifact / ".").lexically_normal().parent_path();
  return RunLog(folder.parent_path()).recall(folder.filename().string(), root);
}

void run_recipe(const Recipe& recipe, const RecipeOptions& options, const Key& key) {
  if (!options.only.empty() &&
      std::none_of(recipe.steps.begin(), recipe.steps.end(), [&](const RecipeStep& s) { return s.artifact == options.only; })) {
    std::vector<std::string> names;
    for (const RecipeStep& s : recipe.steps) names.push_back(s.artifact);
    const std::string near = nearest(options.only, names);
    throw UsageError(
        fmt::format("the recipe makes no artifact '{}'{}", options.only, near.empty() ? "" : "; did you mean '" + near + "'?"));
  }
  RunLog log(options.out);
  std::set<std::string> stale;  // dry run: artifacts that would be made, so what hangs on them would be too
  int number = 0;
  for (const RecipeStep& step : recipe.steps) {
    throw_if_interrupted();
    StageRequest request{step.spec, step.instance.get(), step.files, options.out / step.artifact, options.force, options.events};
    for (const auto& [slot, artifact] : step.artifacts) request.inputs[slot] = options.out / artifact;
    const std::string title = fmt::format("[{}/{}] {} ({})", ++number, recipe.steps.size(), step.artifact, step.spec->name);
    if (options.dry_run) {
      const bool upstream =
          std::any_of(step.artifacts.begin(), step.artifacts.end(), [&](const auto& a) { return stale.contains(a.second); });
      const bool keep = !upstream && !options.force && is_unchanged(request);
      if (!keep) stale.insert(step.artifact);
      if (options.json)
        fmt::print("{}\n",
                   Json{{"artifact", step.artifact}, {"stage", step.spec->name}, {"would", keep ? "keep" : "make"}}.dump());
      else fmt::print("{}: {}\n", title, keep ? "unchanged, would be kept" : "would be made");
    } else {
      if (!options.json) fmt::print("{}\n", title);
      std::fflush(stdout);
      const StageResult result = run_stage(request, key);
      const bool made = result.status == StageStatus::made;
      if (made) log.remember(step.artifact, result);
      if (options.json) {
        fmt::print("{}\n", Json{{"artifact", step.artifact},
                                {"stage", step.spec->name},
                                {"status", made ? "made" : "unchanged"},
                                {"root", "sha256:" + result.root.hex()},
                                {"seconds", result.seconds},
                                {"metrics", result.report.metrics()}}
                               .dump());
      } else {
        for (const std::string& line : made ? result.report.summary : log.recall(step.artifact, result.root))
          fmt::print("      {}\n", line);
        fmt::print("      {} sha256:{} in {:.1f} s\n", made ? "made" : "unchanged,", result.root.hex().substr(0, 16),
                   result.seconds);
      }
    }
    std::fflush(stdout);
    if (step.artifact == options.only) break;
  }
}

}  // namespace overproof
