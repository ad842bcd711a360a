#include "cli/stage_verb.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/config.h"
#include "pipeline/lineage_events.h"
#include "pipeline/run_stage.h"

namespace overproof {
namespace {

class StageVerb final : public VerbInstance {
 public:
  explicit StageVerb(const StageSpec& spec) : spec_(spec), instance_(spec.make()), slots_(spec.slots.size()) {}

  Options options() override {
    Options list;
    for (size_t i = 0; i < slots_.size(); ++i)
      list.push_back({spec_.slots[i].name, &slots_[i], any_value(), spec_.slots[i].help});
    if (spec_.more_models)
      list.push_back({"models", &models_, any_value(), "models to compare, NAME=FOLDER apart by commas; or --NAME FOLDER"});
    list.push_back({"out", &out_, any_value(), "folder of the new artifact"});
    for (Option& o : instance_->options()) list.push_back(std::move(o));
    list.push_back({"force", &force_, any_value(), "make it again even if nothing changed"});
    list.push_back({"dry-run", &dry_run_, any_value(), "say what would be done, and do nothing"});
    for (Option& o : options_of(key_)) list.push_back(std::move(o));
    list.push_back({"openlineage-url", &openlineage_url_, any_value(),
                    "lineage server to tell when the stage begins and ends; empty: $OPENLINEAGE_URL, else none"});
    return list;
  }

  Answer run(const CommonConfig&, const std::vector<std::string>& arguments) override {
    for (size_t i = 0; i < arguments.size(); ++i)
      place(arguments[i], i == 0 ? slots_[0] : out_, i == 0 ? spec_.slots[0].name : "out");
    LineageEvents events(openlineage_url_);
    StageRequest request{&spec_, instance_.get(), {}, out_, force_, &events};
    if (out_.empty()) throw UsageError(fmt::format("{}: --out is missing (folder of the new artifact)", spec_.name));
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].empty()) request.inputs[spec_.slots[i].name] = slots_[i];
      else if (spec_.slots[i].required && !given(spec_.slots[i].unless))
        throw UsageError(fmt::format("{}: --{} is missing ({})", spec_.name, spec_.slots[i].name, spec_.slots[i].help));
    }
    for (const std::string& item : split_list(models_)) {
      const size_t equals = item.find('=');
      if (equals == std::string::npos || equals == 0) throw UsageError(fmt::format("--models takes NAME=FOLDER, not '{}'", item));
      if (!request.inputs.emplace(item.substr(0, equals), item.substr(equals + 1)).second)
        throw UsageError(fmt::format("the model '{}' is given twice", item.substr(0, equals)));
    }

    const Key key = open_key(key_);
    if (dry_run_) {
      const bool keep = !force_ && is_unchanged(request);
      return {{{"stage", spec_.name}, {"out", out_}, {"would", keep ? "keep" : "make"}},
              fmt::format("{}: {}\n", out_, keep ? "unchanged, would be kept" : "would be made")};
    }
    const StageResult result = run_stage(request, key);
    const bool made = result.status == StageStatus::made;
    Answer answer;
    answer.json = {{"stage", spec_.name},
                   {"out", out_},
                   {"status", made ? "made" : "unchanged"},
                   {"root", "sha256:" + result.root.hex()},
                   {"seconds", result.seconds},
                   {"metrics", result.report.metrics()}};
    for (const std::string& line : result.report.summary) answer.text += line + "\n";
    answer.text +=
        fmt::format("{}: {} sha256:{} in {:.1f} s\n", out_, made ? "made" : "unchanged,", result.root.hex(), result.seconds);
    return answer;
  }

 private:
  bool given(const std::string& slot) const {
    for (size_t i = 0; i < slots_.size(); ++i)
      if (spec_.slots[i].name == slot && !slots_[i].empty()) return true;
    return false;
  }

  void place(const std::string& word, std::string& into, const std::string& name) {
    if (word.empty()) return;
    if (!into.empty()) throw UsageError(fmt::format("{}: --{} is given twice, as '{}' and '{}'", spec_.name, name, into, word));
    into = word;
  }

  const StageSpec& spec_;
  std::unique_ptr<StageInstance> instance_;
  std::vector<std::string> slots_;
  std::string models_, out_, openlineage_url_;
  KeyOptions key_;
  bool force_ = false, dry_run_ = false;
};

}  // namespace

std::vector<VerbSpec> stage_verbs() {
  std::vector<VerbSpec> list;
  for (const StageSpec& spec : stages()) {
    // A stage with one input may be told both ends by place: overproof quantize IN OUT.
    std::vector<Argument> ends;
    const auto needed = std::count_if(spec.slots.begin(), spec.slots.end(), [](const Slot& s) { return s.required; });
    if (needed == 1 && spec.slots[0].required)
      ends = {{spec.slots[0].name, "the same as --" + spec.slots[0].name, false}, {"out", "the same as --out", false}};
    list.push_back({spec.name, spec.help, spec.example, ends, false, spec.more_models,
                    [&spec] { return std::make_unique<StageVerb>(spec); }});
  }
  return list;
}

}  // namespace overproof
