#include "pipeline/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/stage.h"
#include "core/utf8.h"
#include "formats/safetensors.h"
#include "pipeline/forecast.h"
#include "pipeline/metrics_summary.h"
#include "pipeline/run_log.h"
#include "provenance/lineage_kinds.h"
#include "provenance/run_folder.h"

namespace overproof {
namespace {

struct Section {
  std::string name;
  std::vector<std::pair<std::string, std::string>> keys;
};

constexpr int64_t kMostRecipeBytes = 1 << 20;
/// File systems allow 255 bytes, and the folder from which a stage is resumed has a longer name than its artifact (pipeline/scratch.h).
constexpr size_t kLongestName = 200;
constexpr size_t kMostSections = 1024, kMostKeys = 1024;  // of a recipe, and of a section: they are looked up one by one
constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

/// The line without a comment: one that begins the line, or follows a blank and is followed by one. What is neither is refused rather
/// than cut: "#" is a letter in the names of folders, licences and patterns.
std::string_view without_comment(std::string_view line, const std::string& where) {
  line = trimmed(line);
  if (line.starts_with('#')) return "";
  for (size_t at = line.find('#'); at != std::string_view::npos; at = line.find('#', at + 1)) {
    if (kBlanks.find(line[at - 1]) == std::string_view::npos) continue;
    if (at + 1 == line.size() || kBlanks.find(line[at + 1]) != std::string_view::npos) return trimmed(line.substr(0, at));
    throw UsageError(fmt::format("{}: '{}' may be a comment or a part of the value; put a blank after the '#' of a comment, and give such "
                                 "a value by --set section.key=value",
                                 where, line.substr(at)));
  }
  return line;
}

/// Collects keys by section, in the order in which they are first named.
class Sections {
 public:
  Section& at(const std::string& name, const std::string& where) {
    if (!is_safe_relative_name(name) || name.find('/') != std::string::npos || name.front() == '.')
      throw UsageError(fmt::format("{}: '{}' cannot be the name of an artifact", where, name));
    if (name.size() > kLongestName)
      throw UsageError(fmt::format("{}: '{}...' has {} bytes; the name of an artifact has at most {}", where, name.substr(0, 40), name.size(), kLongestName));
    if (std::ranges::find(kOwnFiles, name) != std::end(kOwnFiles) || std::ranges::find(kOwnFolders, name) != std::end(kOwnFolders))
      throw UsageError(fmt::format("{}: '{}' cannot be the name of an artifact: a run folder has a file or folder of its own of that name", where, name));
    const auto known = std::ranges::find(list, name, &Section::name);
    if (known != list.end()) return *known;
    if (list.size() == kMostSections) throw UsageError(fmt::format("{}: the recipe has more than {} sections", where, kMostSections));
    return list.emplace_back(Section{name, {}});
  }
  Section& existing(const std::string& name, const std::string& where) {
    std::vector<std::string> names;
    for (Section& s : list) {
      if (s.name == name) return s;
      names.push_back(s.name);
    }
    const std::string near = nearest(name, names);
    throw UsageError(
        fmt::format("{}: the recipe has no section [{}]{}", where, name, near.empty() ? "" : "; did you mean [" + near + "]?"));
  }
  static void put(Section& section, const std::string& key, const std::string& value, bool replace, const std::string& where) {
    const auto known = std::ranges::find(section.keys, key, &std::pair<std::string, std::string>::first);
    if (known == section.keys.end() && section.keys.size() == kMostKeys)
      throw UsageError(fmt::format("{}: [{}] has more than {} keys", where, section.name, kMostKeys));
    if (known == section.keys.end()) section.keys.emplace_back(key, value);
    else if (replace) known->second = value;
    else throw UsageError(fmt::format("{}: [{}] gives '{}' twice", where, section.name, key));
  }

  std::vector<Section> list;
};

void read_lines(std::string_view text, const fs::path& path, Sections& sections) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // the mark that some editors put before UTF-8
  std::string current;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string where = fmt::format("{}: line {}", path.string(), ++number);
    const std::string_view whole = text.substr(begin, end - begin);
    begin = end + 1;
    if (invalid_utf8_at(whole) >= 0 || whole.find('\0') != std::string_view::npos)
      throw UsageError(fmt::format("{}: is not text in UTF-8; save the recipe in that encoding", where));
    const std::string_view line = without_comment(whole, where);
    if (std::ranges::any_of(line, [](char c) { return (c >= 0 && c < ' ' && c != '\t') || c == 0x7f; }))
      throw UsageError(fmt::format("{}: holds a control character{}", where,
                                   line.find('\r') == std::string_view::npos ? "" : " (CR); end lines with LF or CR LF"));
    if (line.empty()) continue;
    if (line.starts_with('[') && line.ends_with(']')) {
      current = trimmed(line.substr(1, line.size() - 2));
      sections.at(current, where);
      continue;
    }
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos)
      throw UsageError(fmt::format("{}: the line '{}' is neither a [section] nor key = value", where, line));
    const std::string key(trimmed(line.substr(0, equals))), value(trimmed(line.substr(equals + 1)));
    if (current.empty()) throw UsageError(fmt::format("{}: '{}' is outside any [section]", where, key));
    if (value.size() >= 2 && value.front() == value.back() && (value.front() == '"' || value.front() == '\''))
      throw UsageError(fmt::format("{}: the quotes would be a part of the value {}; write it without them", where, value));
    Sections::put(sections.at(current, where), key, value, false, where);
  }
}

std::vector<Section> read_sections(const fs::path& path, const StringList& overrides) {
  Sections sections;
  read_lines(read_file(path, kMostRecipeBytes), path, sections);
  for (const std::string& o : overrides) {
    const size_t equals = o.find('='), dot = o.rfind('.', equals);  // no key has a dot, a section's name may
    const std::string where = "--set " + o;
    if (equals == std::string::npos) throw UsageError(fmt::format("--set takes section.key=value, not '{}'", o));
    if (dot == std::string::npos || dot == 0)
      throw UsageError(fmt::format("{}: '{}' is outside any [section]", where, o.substr(0, equals)));
    Sections::put(sections.existing(o.substr(0, dot), where), o.substr(dot + 1, equals - dot - 1), o.substr(equals + 1), true, where);
  }
  if (sections.list.empty()) throw UsageError(fmt::format("{}: the recipe has no [section]", path.string()));
  return std::move(sections.list);
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

/// The model that each artifact can be judged by before the run: what is made already, else the outside file that the import reads from
/// which it will be made.
KnownModels model_origins(const Recipe& recipe, const fs::path& out) {
  KnownModels origins;
  std::error_code error;
  for (const RecipeStep& step : recipe.steps) {  // each after those that it needs
    if (step.spec->name == "import") origins[step.artifact] = step.files.at("path");
    else if (fs::exists(out / step.artifact / "config.json", error)) origins[step.artifact] = out / step.artifact;
    else
      for (const auto& [slot, parent] : step.artifacts)
        if (slot == "teacher" || slot == "student" || slot == "model") {
          if (const auto known = origins.find(parent); known != origins.end()) origins[step.artifact] = known->second;
          break;
        }
  }
  return origins;
}

/// The models of a step's inputs.
KnownModels known_models(const KnownModels& origins, const RecipeStep& step) {
  KnownModels models;
  for (const auto& [slot, path] : step.files) models[slot] = path;
  for (const auto& [slot, artifact] : step.artifacts)
    if (const auto known = origins.find(artifact); known != origins.end()) models.emplace(slot, known->second);
  return models;
}

int64_t number_of(const RecipeStep& step, std::string_view option) {
  for (const Option& o : step.instance->options())
    if (o.name == option) return *std::get<int64_t*>(o.value);
  return 0;
}

int64_t window_length_of(const Recipe& recipe) {
  constexpr int64_t kUsual = 256;
  const auto corpus = std::ranges::find_if(recipe.steps, [](const RecipeStep& s) { return s.spec->name == "corpus"; });
  return corpus == recipe.steps.end() ? kUsual : number_of(*corpus, "window-length");
}

/// The tokens of the soft targets that a step learns from; 0 where it has none.
int64_t targets_tokens_of(const Recipe& recipe, const RecipeStep& step) {
  const auto targets = step.artifacts.find("targets");
  if (targets == step.artifacts.end()) return 0;
  const auto maker = std::ranges::find(recipe.steps, targets->second, &RecipeStep::artifact);
  return maker != recipe.steps.end() && maker->spec->kind == "taught" ? number_of(*maker, "tokens") : 0;
}

/// An input of another kind than the slot takes, such as a corpus where a model is needed.
void check_roles(const Recipe& recipe, const RecipeStep& step) {
  const LineageKind& kind = lineage_kind(step.spec->kind);
  for (const auto& [slot, artifact] : step.artifacts) {
    const auto maker = std::ranges::find(recipe.steps, artifact, &RecipeStep::artifact);
    if (maker == recipe.steps.end()) continue;
    std::vector<Role> wanted;
    if (const std::optional<Role> known = role_in_slot(slot)) wanted = {*known};
    else if (!kind.has_rule(slot) && kind.other_slots) wanted = kind.other_roles;
    const Role role = lineage_kind(maker->spec->kind).role;
    if (wanted.empty() || std::ranges::find(wanted, role) != wanted.end()) continue;
    std::vector<std::string_view> names;
    for (const Role one : wanted) names.push_back(role_name(one));
    throw UsageError(fmt::format("[{}]: '{} = {}' names an artifact with the role '{}'; the input takes '{}'", step.artifact, slot, artifact, role_name(role), fmt::join(names, "' or '")));
  }
}

/// Less than a window would be taught nothing.
void check_teaching(const Recipe& recipe, const RecipeStep& step) {
  const auto corpus = step.artifacts.find("corpus");
  if (step.spec->name != "teach" || corpus == step.artifacts.end()) return;
  const auto maker = std::ranges::find(recipe.steps, corpus->second, &RecipeStep::artifact);
  if (maker == recipe.steps.end() || maker->spec->name != "corpus") return;
  const int64_t tokens = number_of(step, "tokens"), window = number_of(*maker, "window-length");
  if (tokens < window)
    throw UsageError(fmt::format("[{}]: tokens = {} is less than one window of [{}], which has {} tokens", step.artifact, tokens, maker->artifact, window));
}

/// Stages that read windows of their corpus, in its training and in its held-out stream. `quantize` measures where it is asked to.
struct WindowReader {
  std::string_view stage;
  bool training = false, held_out = false;
};
constexpr WindowReader kWindowReaders[] = {{"teach", true}, {"teach-shard", true}, {"capture", true}, {"observe", true},
                                           {"activations", true}, {"pretrain", true}, {"distill", true}, {"recover", true},
                                           {"calibrate", true, true}, {"evaluate", false, true}, {"quantize", false, true}};

bool measures(const RecipeStep& step) {
  return step.spec->name != "quantize" || std::ranges::any_of(step.instance->options(), [](const Option& o) {
           if (o.name == "evaluate") return *std::get<bool*>(o.value);
           return (o.name == "max-kl" || o.name == "kl-budget") && *std::get<double*>(o.value) > 0;
         });
}

/// Of a corpus that was made or kept just now: whether it has the windows that later steps need, which may be hours later.
void require_windows(const Recipe& recipe, size_t at, size_t end, const fs::path& out) {
  const RecipeStep& corpus = recipe.steps[at];
  const int64_t window = number_of(corpus, "window-length");
  const SafetensorsFile file(out / corpus.artifact / "tokens.safetensors");
  const auto require = [&](const RecipeStep& step, const char* stream, const char* what, const char* remedy) {
    const int64_t count = file.contains(stream) ? file.info(stream).elements() : 0;
    if ((count - 1) / window < 1)
      throw MismatchError(fmt::format("[{}]: needs a {} window, and the {} {} tokens of [{}] are less than one window of {}; {}", step.artifact, what, count,
                                      what, corpus.artifact, window, remedy));
  };
  for (size_t i = at + 1; i < end; ++i) {
    const RecipeStep& step = recipe.steps[i];
    const auto bound = step.artifacts.find("corpus");
    const auto reader = std::ranges::find(kWindowReaders, step.spec->name, &WindowReader::stage);
    if (bound == step.artifacts.end() || bound->second != corpus.artifact || reader == std::end(kWindowReaders)) continue;
    if (reader->training) require(step, "train", "training", "add documents, or make window-length smaller");
    if (reader->held_out && measures(step)) require(step, "held_out", "held-out", "raise held-out, add documents, or make window-length smaller");
  }
}

/// What would end the run hours later is reported before it begins.
void check_recipe(const Recipe& recipe, const RecipeOptions& options) {
  const KnownModels origins = model_origins(recipe, options.out);
  for (size_t i = 0; i < steps_until(recipe, options.only); ++i) {
    const RecipeStep& step = recipe.steps[i];
    for (const auto& [slot, path] : step.files)
      if (!fs::exists(path)) throw IoError(path, fmt::format("[{}]: the input '{}' does not exist", step.artifact, slot), ENOENT);
    // A student of a recipe has another architecture than the teacher it is known by, so only what is imported or made is judged.
    KnownModels models = known_models(origins, step);
    for (const auto& [slot, artifact] : step.artifacts) {
      const auto maker = std::ranges::find(recipe.steps, artifact, &RecipeStep::artifact);
      if (maker != recipe.steps.end() && maker->spec->name != "import" && models.contains(slot) && models[slot] != options.out / artifact)
        models.erase(slot);
    }
    std::set<std::string> bound;
    for (const auto& inputs : {step.files, KnownModels(step.artifacts.begin(), step.artifacts.end())})
      for (const auto& [slot, path] : inputs) bound.insert(slot);
    check_prerequisites(*step.spec, *step.instance, models, bound);
    check_roles(recipe, step);
    check_teaching(recipe, step);
  }
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

std::vector<std::string> run_recipe(const Recipe& recipe, const RecipeOptions& options, const Key& key) {
  require_artifact(recipe, options.only);
  check_recipe(recipe, options);
  const RunLog log(options.out);
  Forecast total;
  std::set<std::string> signers;
  const KnownModels origins = options.dry_run ? model_origins(recipe, options.out) : KnownModels{};
  std::set<std::string> stale;  // dry run: artifacts that would be made, and so would what depends on them
  for (size_t i = 0; i < steps_until(recipe, options.only); ++i) {
    throw_if_interrupted();
    const RecipeStep& step = recipe.steps[i];
    StageRequest request{step.spec, step.instance.get(), step.files, options.out / step.artifact, options.force, true, options.events, options.trusted};
    for (const auto& [slot, artifact] : step.artifacts) request.inputs[slot] = options.out / artifact;
    const std::string title = fmt::format("[{}/{}] {} ({})", i + 1, recipe.steps.size(), printable(step.artifact), step.spec->name);
    if (options.dry_run) {
      const bool upstream =
          std::any_of(step.artifacts.begin(), step.artifacts.end(), [&](const auto& a) { return stale.contains(a.second); });
      const bool keep = !upstream && !options.force && is_unchanged(request, &key);
      if (!keep) stale.insert(step.artifact);
      Json answer = {{"artifact", step.artifact}, {"stage", step.spec->name}, {"would", keep ? "keep" : "make"}};
      std::string text = fmt::format("{}: {}", title, keep ? "unchanged, would be kept" : "would be made");
      if (!keep) {
        const Forecast cost =
            forecast(*step.spec, *step.instance, known_models(origins, step), window_length_of(recipe),
                     targets_tokens_of(recipe, step));
        answer["estimate"] = cost.json();
        if (!cost.text().empty()) text += "; " + cost.text();
        total.memory_bytes = std::max(total.memory_bytes, cost.memory_bytes);
        total.disk_bytes += cost.disk_bytes;
        total.seconds += cost.seconds;
      }
      options.report({std::move(answer), text + "\n"});
      continue;
    }
    options.report({{}, title + "\n"});
    const StageResult result = run_stage(request, key);
    if (step.spec->name == "corpus") require_windows(recipe, i, steps_until(recipe, options.only), options.out);
    signers.insert(result.signer);
    signers.insert(result.signers.begin(), result.signers.end());
    if (result.status == StageStatus::made) log.remember(step.artifact, {result.root, result.seconds, result.report.summary});
    // Of an unchanged artifact the statement is printed: run.json is unsigned.
    options.report(step_answer(step, result, result.status == StageStatus::made ? result.report.summary
                                                                                : metrics_summary(result.report.metrics())));
  }
  if (options.dry_run && !total.text().empty()) {
    std::error_code error;
    fs::path place = fs::absolute(options.out);
    while (!fs::exists(place, error) && place.has_relative_path()) place = place.parent_path();
    const double free = double(fs::space(place, error).available);
    options.report({{}, fmt::format("in all {}{}\n", total.text(),
                                    total.disk_bytes > free ? fmt::format("; the disk has only {:.1f} GB free", free * 1e-9) : "")});
  }
  return {signers.begin(), signers.end()};
}

}  // namespace overproof
