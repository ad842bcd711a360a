#include "cli/stage_verb.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/config.h"
#include "core/json.h"
#include "core/printable.h"
#include "pipeline/forecast.h"
#include "pipeline/lineage_events.h"
#include "pipeline/run_stage.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

constexpr int64_t kUsualWindow = 256;  // tokens; a forecast need not open the corpus

class StageVerb final : public VerbInstance {
 public:
  explicit StageVerb(const StageSpec& spec) : spec_(spec), instance_(spec.make()), slots_(spec.slots.size()) {}

  Options options() override {
    Options list;
    for (size_t i = 0; i < slots_.size(); ++i)
      list.push_back({spec_.slots[i].name, &slots_[i], any_value(), spec_.slots[i].help});
    if (spec_.more_models)
      list.push_back({spec_.more_option, &models_, any_value(), spec_.more_help + ", comma-separated NAME=FOLDER" + (spec_.more_by_name ? "; or --NAME FOLDER" : "")});
    list.push_back({"out", &out_, any_value(), "folder of the new artifact"});
    for (Option& o : instance_->options()) list.push_back(std::move(o));
    list.push_back({"force", &force_, any_value(), "make the artifact again even if nothing changed, and replace a finished one of another configuration"});
    list.push_back({"dry-run", &dry_run_, any_value(), "report whether the artifact would be made, and make nothing"});
    for (Option& o : options_of(key_)) list.push_back(std::move(o));
    if (reads_artifacts())
      for (Option& o : options_of(trust_)) list.push_back(std::move(o));
    list.push_back({"openlineage-url", &openlineage_url_, any_value(),
                    "lineage server to notify when the stage starts and ends; empty: $OPENLINEAGE_URL, else none"});
    return list;
  }

  void add_named_input(const std::string& name, const std::string& folder) override {
    if (!named_.emplace(name, folder).second) throw UsageError(fmt::format("the model '{}' is given twice", name));
  }

  std::optional<Needs> needs(const Arguments& arguments) override {
    for (size_t i = 0; i < arguments.size(); ++i)
      place(arguments[i], i == 0 ? slots_[0] : out_, i == 0 ? spec_.slots[0].name : "out");
    if (out_.empty()) throw UsageError(fmt::format("{}: --out is missing (folder of the new artifact)", spec_.name));
    for (size_t i = 0; i < slots_.size(); ++i)
      if (slots_[i].empty() && spec_.slots[i].required)
        throw UsageError(fmt::format("{}: --{} is missing ({})", spec_.name, spec_.slots[i].name, spec_.slots[i].help));
    return dry_run_ ? Needs::nothing : needs_of(spec_, *instance_);
  }

  Answer run(const CommonConfig&, const Arguments&) override {
    LineageEvents events(openlineage_url_);
    const auto trusted = trust_.key();
    StageRequest request{&spec_, instance_.get(), {}, out_, force_, false, &events, trusted.get()};
    for (size_t i = 0; i < slots_.size(); ++i)
      if (!slots_[i].empty()) request.inputs[spec_.slots[i].name] = slots_[i];
    // Kept apart until here: --models is assigned as a whole, whatever was named before it.
    models_.insert(models_.end(), named_.begin(), named_.end());
    for (const auto& [name, folder] : models_)
      if (!request.inputs.emplace(name, folder).second) throw UsageError(fmt::format("the input '{}' is given twice", name));

    if (const fs::path& model = slots_[0]; is_import() && trusted && !fs::exists(model / "model.sig"))
      throw ProvenanceError(fmt::format("{}: has no signature (model.sig), so it is not signed by the key of --public-key; --sha256 compares it with a "
                                        "published digest",
                                        model.string()));
    const Key key = open_key(key_);
    const std::string out = out_.string();
    std::set<std::string> bound;
    for (const auto& [slot, path] : request.inputs) bound.insert(slot);
    check_options(spec_, *instance_, bound);
    if (dry_run_) {
      check_prerequisites(spec_, *instance_, request.inputs, bound);
      const bool keep = !force_ && is_unchanged(request, &key);
      const Forecast cost = keep ? Forecast{} : forecast(spec_, *instance_, request.inputs, kUsualWindow, 0, out_);
      Answer answer{{{"stage", spec_.name}, {"out", out}, {"would", keep ? "keep" : "make"}},
                    fmt::format("{}: {}{}{}\n", printable(out), keep ? "unchanged, would be kept" : "would be made",
                                cost.text().empty() ? "" : "; ", cost.text())};
      if (!keep) answer.json["estimate"] = cost.json();
      return answer;
    }
    const StageResult result = run_stage(request, key);
    const bool made = result.status == StageStatus::made;
    Answer answer;
    answer.json = {{"stage", spec_.name},
                   {"out", out},
                   {"status", made ? "made" : "unchanged"},
                   {"root", "sha256:" + result.root.hex()},
                   {"seconds", result.seconds},
                   {"metrics", result.report.metrics()}};
    for (const std::string& line : result.report.summary) answer.text += printable(line) + "\n";
    if (!result.signers.empty()) {
      answer.json["signers"] = result.signers;
      answer.json["signer_trusted"] = trusted != nullptr;
      answer.text += fmt::format("inputs {}\n", signature_seen(result.signers, trusted != nullptr));
    }
    answer.text +=
        fmt::format("{}: {} sha256:{} in {:.1f} s\n", printable(out), made ? "made" : "unchanged,", result.root.hex(), result.seconds);
    return answer;
  }

 private:
  bool is_import() const { return spec_.name == "import"; }  // its model may be signed by its publisher
  bool reads_artifacts() const {
    return is_import() || spec_.more_models || std::ranges::any_of(spec_.slots, [](const Slot& s) { return s.kind == Slot::Kind::artifact; });
  }
  void place(const std::string& word, fs::path& into, const std::string& name) {
    if (word.empty()) return;
    if (!into.empty())
      throw UsageError(fmt::format("{}: --{} is given twice, as '{}' and '{}'", spec_.name, name, into.string(), word));
    into = word;
  }

  const StageSpec& spec_;
  std::unique_ptr<StageInstance> instance_;
  std::vector<fs::path> slots_;
  StringPairs models_;  // pairs and not a map: a name that is given twice must not hide a model
  StringMap named_;     // by --NAME FOLDER
  fs::path out_;
  std::string openlineage_url_;
  KeyOptions key_;
  TrustOptions trust_;
  bool force_ = false, dry_run_ = false;
};

}  // namespace

std::vector<VerbSpec> stage_verbs() {
  std::vector<VerbSpec> list;
  for (const StageSpec& spec : stages()) {
    // The input and the output of a stage with one input may be given by position: overproof quantize IN OUT.
    std::vector<Argument> ends;
    const auto needed = std::count_if(spec.slots.begin(), spec.slots.end(), [](const Slot& s) { return s.required; });
    if (needed == 1 && spec.slots[0].required)
      ends = {{spec.slots[0].name, "the same as --" + spec.slots[0].name, false}, {"out", "the same as --out", false}};
    list.push_back({.name = spec.name,
                    .group = spec.group,
                    .help = spec.help,
                    .example = spec.example,
                    .arguments = ends,
                    .named_inputs = spec.more_models && spec.more_by_name,
                    .needs = spec.needs,
                    .make = [&spec] { return std::make_unique<StageVerb>(spec); }});
  }
  return list;
}

}  // namespace overproof
