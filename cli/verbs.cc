#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <optional>

#include "cli/stage_verb.h"
#include "cli/verb.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "pipeline/lineage_events.h"
#include "pipeline/metrics_summary.h"
#include "pipeline/recipe.h"
#include "pipeline/version.h"
#include "provenance/artifact.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

struct NoConfig {
  template <class V>
  void visit(V&&) {}
};

struct RunConfig {
  fs::path out;
  StringList set;
  std::string only, openlineage_url;
  KeyOptions key;
  TrustOptions trust;
  bool force = false, dry_run = false;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "run folder, which gets one artifact folder for each section (default runs/NAME-OF-RECIPE)");
    v("set", set, any_value(), "section.key=value, to replace a value of the recipe; may be given many times");
    v("only", only, any_value(), "stop after this artifact");
    v("force", force, any_value(), "make every artifact again");
    v("dry-run", dry_run, any_value(), "list what would be made, and make nothing");
    key.visit(v);
    trust.visit(v);
    v("openlineage-url", openlineage_url, any_value(),
      "lineage server to notify when a stage starts or ends; empty: $OPENLINEAGE_URL, else none");
  }
};

class RunVerb final : public VerbInstance {
 public:
  Options options() override { return options_of(config_); }

  bool take_whole(const std::string& name, const std::string& value) override {
    if (name == "set") config_.set.push_back(value);  // the value of a recipe's key may be a list
    return name == "set";
  }

  /// Reads the recipe: whatever one of its stages needs, the whole run needs. A dry run executes none of them.
  std::optional<Needs> needs(const Arguments& arguments) override {
    path_ = arguments[0];
    recipe_ = read_recipe(path_, config_.set);
    require_artifact(recipe_, config_.only);
    return config_.dry_run ? Needs::nothing : recipe_needs(recipe_, config_.only);
  }

  Answer run(const CommonConfig& common, const Arguments&) override {
    RecipeOptions options;
    options.out = config_.out.empty() ? fs::path("runs") / path_.stem() : config_.out;
    options.only = config_.only;
    options.force = config_.force;
    options.dry_run = config_.dry_run;
    LineageEvents events(config_.openlineage_url);
    options.events = &events;
    options.report = [&](const Answer& part) {
      print_answer(part, common.json);
      std::fflush(stdout);
    };
    const Key key = open_key(config_.key);
    std::optional<PublicKey> trusted;
    if (const auto named = config_.trust.key()) {
      trusted = *named;
      trusted->add_successor(key.public_key());  // what this run makes is signed with its own key
      options.trusted = &*trusted;
    }
    const std::vector<std::string> signers = run_recipe(recipe_, options, key);
    Answer answer;
    if (signers.empty()) return answer;  // a dry run
    const bool own = signers == std::vector{key.public_key().hint()};
    answer.json = {{"signers", signers}, {"own_key", key.public_key().hint()}, {"signer_trusted", own || trusted.has_value()}};
    answer.text = own ? fmt::format("all is signed by this run's own key {}\n", signers.front())
                      : fmt::format("{}{}\n", signature_seen(signers, trusted.has_value()), trusted ? " or by this run's own" : "");
    return answer;
  }

 private:
  RunConfig config_;
  fs::path path_;
  Recipe recipe_;
};

struct ShowConfig {
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    trust.visit(v);
  }
};

/// Of the statement alone: files are not read.
Answer show_verb(const CommonConfig&, const ShowConfig& config, const Arguments& arguments) {
  const fs::path folder = arguments[0];
  if (!fs::exists(folder)) throw IoError(folder, "cannot read the artifact", ENOENT);
  const auto trusted = config.trust.key();
  const std::optional<Lineage> lineage = open_artifact(folder, VerifyFiles::no, trusted.get());
  if (!lineage) throw UsageError(fmt::format("{}: is not an artifact of overproof: it has no claims.jsonl", folder.string()));
  const std::string signer = signer_of(*lineage, trusted.get(), folder);
  Answer answer;
  Json inputs = Json::object();
  answer.text = fmt::format("{} ({}) sha256:{}\n", printable(lineage->name), printable(lineage->kind), lineage->root.hex());
  for (const auto& [slot, input] : lineage->inputs) {
    inputs[slot] = "sha256:" + input.root.hex();
    answer.text +=
        fmt::format("  {:<12} {} sha256:{}\n", printable(slot), printable(input.name), input.root.hex().substr(0, 16));
  }
  for (const std::string& line : metrics_summary(lineage->metrics)) answer.text += printable(line) + "\n";
  answer.text += signature_seen({signer}, trusted != nullptr) + "\n";
  answer.json = {{"artifact", lineage->name},
                 {"kind", lineage->kind},
                 {"stage", lineage->stage},
                 {"root", "sha256:" + lineage->root.hex()},
                 {"statement", "sha256:" + lineage->statement.hex()},
                 {"signer", signer},
                 {"signer_trusted", trusted != nullptr},
                 {"inputs", inputs},
                 {"config", lineage->config},
                 {"metrics", lineage->metrics}};
  return answer;
}

Answer version_verb(const CommonConfig&, const NoConfig&, const Arguments&) {
  Answer answer{builder_versions(), {}};
  for (const auto& [name, version] : builder_versions()) answer.text += fmt::format("{} {}\n", name, version);
  return answer;
}

Answer reference_verb(const CommonConfig&, const NoConfig&, const Arguments&) {
  return {{{"reference", reference_page()}}, reference_page()};
}

std::vector<VerbSpec> make_verbs() {
  std::vector<VerbSpec> list = {{.name = "run",
                                 .group = VerbGroup::run,
                                 .help = "Makes every artifact of a recipe; unchanged artifacts are kept.",
                                 .example = "overproof run examples/smollm2-moe.ini --out runs/smollm2-moe --set student.steps=100",
                                 .arguments = {{"recipe", "an INI file with one section for each artifact"}},
                                 .needs = Needs::torch,
                                 .make = [] { return std::make_unique<RunVerb>(); }}};
  for (VerbSpec& v : stage_verbs()) list.push_back(std::move(v));
  for (VerbSpec& v : audit_verbs()) list.push_back(std::move(v));
  for (VerbSpec& v : tool_verbs()) list.push_back(std::move(v));
  list.push_back({.name = "show",
                  .group = VerbGroup::use,
                  .help = "Prints the signed statement of an artifact: inputs, measurements and signer.",
                  .example = "overproof show runs/smollm2-moe/evaluation",
                  .arguments = {{"artifact", "a folder with claims.jsonl"}},
                  .make = verb_maker<ShowConfig>(show_verb)});
  list.push_back({.name = "reference",
                  .help = "Prints the reference page in Markdown.",
                  .example = "overproof reference > docs/reference.md",
                  .make = verb_maker<NoConfig>(reference_verb)});
  list.push_back({.name = "version",
                  .help = "Prints the versions that statements record.",
                  .example = "overproof version --json",
                  .make = verb_maker<NoConfig>(version_verb)});
  return list;
}

}  // namespace

void VerbInstance::add_named_input(const std::string&, const std::string&) { OVERPROOF_CHECK(false); }

const std::vector<VerbSpec>& verbs() {
  static const std::vector<VerbSpec> list = make_verbs();
  return list;
}

}  // namespace overproof
