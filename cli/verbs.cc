#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "cli/stage_verb.h"
#include "cli/verb.h"
#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "pipeline/lineage_events.h"
#include "pipeline/recipe.h"
#include "pipeline/version.h"
#include "provenance/artifact.h"

namespace overproof {
namespace {

struct NoConfig {
  template <class V>
  void visit(V&&) {}
};

struct RunConfig {
  std::string out, set, only, openlineage_url;
  KeyOptions key;
  bool force = false, dry_run = false;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "run folder; every section's artifact stands in it (default runs/NAME-OF-RECIPE)");
    v("set", set, any_value(), "section.key=value instead of what the recipe says; may be given many times");
    v("only", only, any_value(), "stop after this artifact");
    v("force", force, any_value(), "make everything again");
    v("dry-run", dry_run, any_value(), "say what would be made, and make nothing");
    key.visit(v);
    v("openlineage-url", openlineage_url, any_value(),
      "lineage server to tell when stages begin and end; empty: $OPENLINEAGE_URL, else none");
  }
};

int run_verb(const CommonConfig& common, const RunConfig& config, const std::vector<std::string>& arguments) {
  std::vector<std::string> overrides;
  for (size_t begin = 0; begin < config.set.size();) {
    const size_t end = std::min(config.set.find('\n', begin), config.set.size());
    overrides.push_back(config.set.substr(begin, end - begin));
    begin = end + 1;
  }
  const fs::path path = arguments[0];
  const Recipe recipe = read_recipe(path, overrides);
  RecipeOptions options;
  options.out = config.out.empty() ? fs::path("runs") / path.stem() : fs::path(config.out);
  options.only = config.only;
  options.force = config.force;
  options.dry_run = config.dry_run;
  options.json = common.json;
  LineageEvents events(config.openlineage_url);
  options.events = &events;
  run_recipe(recipe, options, open_key(config.key));
  return 0;
}

Answer show_verb(const CommonConfig&, const NoConfig&, const std::vector<std::string>& arguments) {
  const fs::path folder = arguments[0];
  const std::optional<Lineage> lineage = open_artifact(folder, VerifyFiles::no, nullptr);
  if (!lineage) throw UsageError(fmt::format("{}: is not an artifact of overproof: it has no claims.jsonl", folder.string()));
  Answer answer;
  Json inputs = Json::object();
  answer.text = fmt::format("{} ({}) sha256:{}\n", printable(lineage->name), printable(lineage->kind), lineage->root.hex());
  for (const auto& [slot, input] : lineage->inputs) {
    inputs[slot] = "sha256:" + input.root.hex();
    answer.text +=
        fmt::format("  {:<12} {} sha256:{}\n", printable(slot), printable(input.name), input.root.hex().substr(0, 16));
  }
  const std::vector<std::string> summary = recall_summary(folder, lineage->root);
  for (const std::string& line : summary) answer.text += printable(line) + "\n";
  if (summary.empty())
    answer.text += lineage->metrics.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  answer.json = {{"artifact", lineage->name},
                 {"kind", lineage->kind},
                 {"stage", lineage->stage},
                 {"root", "sha256:" + lineage->root.hex()},
                 {"inputs", inputs},
                 {"config", lineage->config},
                 {"metrics", lineage->metrics}};
  return answer;
}

Answer version_verb(const CommonConfig&, const NoConfig&, const std::vector<std::string>&) {
  Answer answer{builder_versions(), {}};
  for (const auto& [name, version] : builder_versions()) answer.text += fmt::format("{} {}\n", name, version);
  return answer;
}

Answer reference_verb(const CommonConfig&, const NoConfig&, const std::vector<std::string>&) {
  return {{{"reference", reference_page()}}, reference_page()};
}

std::vector<VerbSpec> make_verbs() {
  std::vector<VerbSpec> list;
  list.push_back({"run",
                  "Makes every artifact of a recipe; what is unchanged is kept.",
                  "overproof run examples/smollm2-moe.ini --out runs/smollm2-moe --set student.steps=100",
                  {{"recipe", "an INI file, one section an artifact"}},
                  true,
                  false,
                  verb_maker<RunConfig>(run_verb)});
  for (VerbSpec& v : stage_verbs()) list.push_back(std::move(v));
  for (VerbSpec& v : audit_verbs()) list.push_back(std::move(v));
  for (VerbSpec& v : tool_verbs()) list.push_back(std::move(v));
  list.push_back({"show",
                  "Says again what a stage said when it made an artifact.",
                  "overproof show runs/smollm2-moe/evaluation",
                  {{"artifact", "a folder with its claims.jsonl"}},
                  false,
                  false,
                  verb_maker<NoConfig>(show_verb)});
  list.push_back({"reference",
                  "Prints the reference page in Markdown.",
                  "overproof reference > docs/reference.md",
                  {},
                  false,
                  false,
                  verb_maker<NoConfig>(reference_verb)});
  list.push_back({"version",
                  "Prints versions as they are recorded in statements.",
                  "overproof version --json",
                  {},
                  false,
                  false,
                  verb_maker<NoConfig>(version_verb)});
  return list;
}

}  // namespace

const std::vector<VerbSpec>& verbs() {
  static const std::vector<VerbSpec> list = make_verbs();
  return list;
}

}  // namespace overproof
