#include <catch2/catch.hpp>

#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "pipeline/recipe.h"
#include "tests/support.h"

using namespace overproof;

namespace {

struct RecipeFile {
  TempFolder folder;
  fs::path path = folder / "r.ini";
  explicit RecipeFile(const std::string& text) { std::ofstream(path) << text; }
  Recipe read(const std::vector<std::string>& overrides = {}) const { return read_recipe(path, overrides); }
  std::string fault(const std::vector<std::string>& overrides = {}) const {
    try {
      read(overrides);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  }
};

const std::string kGood =
    "# comment\n[int8]\nstage = quantize\nmodel = teacher\nexclude = *.down_proj.weight\n"
    "[teacher]\nstage = import\npath = sub/model.gguf   # from outside\nlicense = MIT\n";

}  // namespace

TEST_CASE("a recipe's artifacts are made after what they need, whatever the order of sections") {
  const RecipeFile file(kGood);
  const Recipe recipe = file.read({"int8.scheme=int8", "teacher.license=Apache-2.0"});
  REQUIRE(recipe.steps.size() == 2);
  CHECK(recipe.steps[0].artifact == "teacher");
  CHECK(recipe.steps[0].files.at("path") == file.folder / "sub/model.gguf");
  CHECK(to_json(recipe.steps[0].instance->options())["license"] == "Apache-2.0");
  CHECK(recipe.steps[1].spec->name == "quantize");
  CHECK(recipe.steps[1].artifacts.at("model") == "teacher");
  CHECK(to_json(recipe.steps[1].instance->options())["exclude"] == "*.down_proj.weight");
}

TEST_CASE("a recipe that is wrong says where, and what was meant") {
  using Catch::Contains;
  CHECK_THAT(RecipeFile(kGood + "licence = x\n").fault(), Contains("[teacher]") && Contains("did you mean 'license'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantise\n").fault(), Contains("[x]") && Contains("did you mean 'quantize'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantize\nmodel = teachr\n").fault(), Contains("did you mean 'teacher'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantize\n").fault(), Contains("'model' is missing"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = import\n").fault(), Contains("'path' is missing"));
  CHECK_THAT(RecipeFile(kGood + "license = x\n").fault(), Contains("gives 'license' twice"));
  CHECK_THAT(RecipeFile("a = 1\n").fault(), Contains("no [section]"));
  CHECK_THAT(RecipeFile("[../up]\nstage = import\n").fault(), Contains("cannot be the name"));
  CHECK_THAT(RecipeFile("[a]\nstage = quantize\nmodel = b\n[b]\nstage = quantize\nmodel = a\n").fault(), Contains("circle"));
  CHECK_THAT(RecipeFile("").fault(), Contains("no [section]"));
  CHECK_THAT(RecipeFile("[teacher\n").fault(), Contains("r.ini") && Contains("'[teacher'"));
  CHECK_THAT(RecipeFile("a %invalid_line% b\n").fault(), Contains("'a %invalid_line% b'"));  // once the reader never came back
  CHECK_THAT(RecipeFile(kGood).fault({"int9.scheme=int8"}), Contains("did you mean [int8]?"));
  CHECK_THAT(RecipeFile(kGood).fault({"nonsense"}), Contains("section.key=value"));
  CHECK_THAT(RecipeFile("[x]\nstage = quantize\nscheme = int9\nmodel = x\n").fault(), Contains("scheme"));
  CHECK_THROWS_AS(read_recipe("no-such-recipe.ini", {}), IoError);
}

TEST_CASE("what a run's log says is taken only where it is of the right kind: anybody may have written into it") {
  const RecipeFile file(kGood);
  const Digest root = sha256(std::string_view("root"));
  const auto said = [&](const Json& log) {
    std::ofstream(file.folder / "run.json") << log.dump();
    return recall_summary(file.folder / "student", root);
  };
  const std::vector<std::string> lines = {"made", "of two"};
  CHECK(said({{"student", {{"root", root.hex()}, {"summary", lines}}}}) == lines);
  CHECK(said({{"student", {{"root", 5}, {"summary", lines}}}}).empty());
  CHECK(said({{"student", {{"root", root.hex()}, {"summary", 5}}}}).empty());
  CHECK(said({{"student", {{"root", root.hex()}, {"summary", {"made", 5}}}}}) == std::vector<std::string>{"made"});
  CHECK(said({{"student", 5}}).empty());
}

TEST_CASE("a stage that takes one of two kinds of model asks for the one that was named") {
  const std::string inputs = "[teacher]\nstage = import\npath = m.gguf\n[corpus]\nsource = texts\ntokenizer = teacher\n";
  const auto prune_of = [&](const std::string& section) -> RecipeStep {
    Recipe recipe = RecipeFile(inputs + section).read();
    for (RecipeStep& step : recipe.steps)
      if (step.artifact == "pruned") return std::move(step);
    throw std::logic_error("no step");
  };
  // A student is named: what the other kind needs is neither asked for nor taken into the lineage.
  CHECK(prune_of("[pruned]\nstage = prune\nstudent = teacher\ndrop-source = x\n").artifacts ==
        std::map<std::string, std::string>{{"student", "teacher"}});
  CHECK_THAT(RecipeFile(inputs + "[pruned]\nstage = prune\n").fault(), Catch::Contains("'statistics' is missing"));
  CHECK(prune_of("[pruned]\nstage = prune\nstatistics = corpus\n").artifacts ==
        std::map<std::string, std::string>{{"statistics", "corpus"}, {"teacher", "teacher"}});
}
