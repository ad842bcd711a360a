#include <catch2/catch.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "pipeline/recipe.h"
#include "pipeline/metrics_summary.h"
#include "pipeline/run_log.h"
#include "formats/safetensors.h"
#include "provenance/lineage_kinds.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

using namespace overproof;

namespace {

struct RecipeFile {
  TempFolder folder;
  fs::path path = folder / "r.ini";
  explicit RecipeFile(const std::string& text) { std::ofstream(path) << text; }
  Recipe read(const StringList& overrides = {}) const { return read_recipe(path, overrides); }
  std::string fault(const StringList& overrides = {}) const {
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
  CHECK(to_json(recipe.steps[1].instance->options())["exclude"] == Json::array({"*.down_proj.weight"}));
}

TEST_CASE("a fault of a recipe names the section and the nearest known word") {
  using Catch::Contains;
  CHECK_THAT(RecipeFile(kGood + "licence = x\n").fault(), Contains("[teacher]") && Contains("did you mean 'license'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantise\n").fault(), Contains("[x]") && Contains("did you mean 'quantize'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantize\nmodel = teachr\n").fault(), Contains("did you mean 'teacher'?"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = quantize\n").fault(), Contains("'model' is missing"));
  CHECK_THAT(RecipeFile(kGood + "[x]\nstage = import\n").fault(), Contains("'path' is missing"));
  CHECK_THAT(RecipeFile(kGood + "license = x\n").fault(), Contains("gives 'license' twice"));
  CHECK_THAT(RecipeFile("a = 1\n").fault(), Contains("'a' is outside any [section]"));
  CHECK_THAT(RecipeFile("[../up]\nstage = import\n").fault(), Contains("cannot be the name"));
  for (const char* own : {"run.json", "report.html", "audits", "checkpoints"})
    CHECK_THAT(RecipeFile(fmt::format("{}[{}]\nstage = quantize\nmodel = teacher\n", kGood, own)).fault(), Contains(own) && Contains("of its own"));
  CHECK_THAT(RecipeFile(kGood + "[" + std::string(201, 'n') + "]\nstage = quantize\nmodel = teacher\n").fault(), Contains("has 201 bytes; the name"));
  CHECK(RecipeFile(kGood + "[" + std::string(200, 'n') + "]\nstage = quantize\nmodel = teacher\n").read({}).steps.size() == 3);
  CHECK_THAT(RecipeFile("[a]\nstage = quantize\nmodel = b\n[b]\nstage = quantize\nmodel = a\n").fault(),
             Contains("dependency cycle: a -> b -> a"));
  CHECK_THAT(RecipeFile("").fault(), Contains("no [section]"));
  CHECK_THAT(RecipeFile("[teacher\n").fault(), Contains("r.ini") && Contains("'[teacher'"));
  CHECK_THAT(RecipeFile("a %invalid_line% b\n").fault(), Contains("'a %invalid_line% b'"));
  CHECK_THAT(RecipeFile(kGood).fault({"int9.scheme=int8"}), Contains("did you mean [int8]?"));
  CHECK_THAT(RecipeFile(kGood).fault({"nonsense"}), Contains("section.key=value"));
  CHECK_THAT(RecipeFile("[x]\nstage = quantize\nscheme = int9\nmodel = x\n").fault(), Contains("scheme"));
  CHECK_THROWS_AS(read_recipe("no-such-recipe.ini", {}), IoError);
}

TEST_CASE("a run's log that is not one is replaced") {
  const RecipeFile file(kGood);
  for (const char* text : {"[]", "{", "5", R"({"student": 5})"}) {
    std::ofstream(file.folder / "run.json") << text;
    RunLog(file.folder.path()).remember("student", {sha256(std::string_view("root")), 1.5, {"made"}});
    CHECK(read_json(file.folder / "run.json").at("student").at("summary") == Json::array({"made"}));
  }
}

TEST_CASE("what is shown of an artifact comes from its signed metrics") {
  CHECK(metrics_summary({{"tokens", 5}, {"final", {{"loss", 2.5}}}, {"name", "a\x1b[2J"}}) ==
        std::vector<std::string>{"final.loss: 2.5", "name: a\x1b[2J", "tokens: 5"});
  Json long_list = Json::array();
  for (int i = 0; i < 500; ++i) long_list.push_back(i);
  CHECK(metrics_summary({{"kept", long_list}}) == std::vector<std::string>{"kept: 500 values"});
  Json many = Json::object();
  for (int i = 0; i < 500; ++i) many[std::to_string(i)] = i;
  CHECK(metrics_summary(many).size() == 61);
  const auto table = metrics_summary({{"tokens", 512}, {"models", {{{"name", "int8"}, {"perplexity", 20.25}, {"bytes", 700}}}}});
  REQUIRE(table.size() == 3);
  CHECK_THAT(table[2], Catch::Contains("int8") && Catch::Contains("20.250"));
  CHECK(metrics_summary({{"models", 5}}) == std::vector<std::string>{"models: 5"});
}

TEST_CASE("an optional input is bound only when it is named") {
  const std::string inputs = "[teacher]\nstage = import\npath = m.gguf\n[counts]\nstage = import\npath = m.gguf\n";
  const auto artifacts = [&](const std::string& section) {
    const Recipe recipe = RecipeFile(inputs + section).read();
    return recipe.steps.back().artifacts;
  };
  CHECK(artifacts("[pruned]\nstage = prune-source\nstudent = teacher\n") ==
        std::map<std::string, std::string>{{"student", "teacher"}});
  CHECK(artifacts("[pruned]\nstage = prune-source\nstudent = teacher\ncounts = counts\n") ==
        std::map<std::string, std::string>{{"counts", "counts"}, {"student", "teacher"}});
}

TEST_CASE("a stage of version 0.1 that has another name now is refused with that name") {
  using Catch::Contains;
  CHECK_THAT(RecipeFile("[student]\nteacher = x\n").fault(), Contains("there is no stage 'student'; it is now 'carve'"));
  CHECK_THAT(RecipeFile("[x]\nstage = prune\n").fault(), Contains("'prune-neurons'") && Contains("'prune-source'"));
}

TEST_CASE("a further model of evaluate that names no section is named") {
  using Catch::Contains;
  const std::string text = "[teacher]\nstage = tiny-teacher\n[corpus]\nsource = texts\ntokenizer = teacher\n[evaluation]\nstage = evaluate\n";
  CHECK_THAT(RecipeFile(text + "carved = nowhere\n").fault(),
             Contains("'carved = nowhere' names no section") && Contains("evaluate has no option 'carved'"));
  CHECK_THAT(RecipeFile(text + "carved = teachr\n").fault(), Contains("did you mean 'teacher'?"));
  CHECK(RecipeFile(text + "carved = teacher\n").read().steps.size() == 3);
}

TEST_CASE("a recipe needs libtorch when one of the steps to be made does") {
  const std::string text =
      "[teacher]\nstage = import\npath = m.gguf\n[int8]\nstage = quantize\nmodel = teacher\n"
      "[measured]\nstage = quantize\nmodel = teacher\nevaluate = true\n";
  const Recipe recipe = RecipeFile(text).read();
  CHECK(recipe_needs(recipe, "") == Needs::torch);
  CHECK(recipe_needs(recipe, "teacher") == Needs::nothing);
  CHECK(recipe_needs(recipe, "int8") == Needs::nothing);
  CHECK(recipe_needs(recipe, "measured") == Needs::torch);
  CHECK(recipe_needs(RecipeFile("[teacher]\nstage = tiny-teacher\n").read(), "") == Needs::torch);
  CHECK_THROWS_WITH(require_artifact(recipe, "int9"), Catch::Contains("did you mean 'int8'?"));
}

TEST_CASE("every stage has a kind of lineage, an example and a sentence of help") {
  for (const StageSpec& spec : stages()) {
    INFO(spec.name);
    const LineageKind* kind = find_lineage_kind(spec.kind);
    REQUIRE(kind != nullptr);
    CHECK(kind->made_by(spec.name));
    for (const Slot& slot : spec.slots) CHECK((slot.kind == Slot::Kind::file || kind->find_entry(slot.name)));
    CHECK(spec.help.ends_with("."));
    CHECK(spec.example.find("overproof " + spec.name + " ") == 0);
    CHECK(renamed_stage(spec.name).empty());
    // Every rule of the kind names a slot of a stage that makes the kind.
    for (const SlotRule& rule : kind->slots) {
      const bool known = std::ranges::any_of(
          stages(), [&](const StageSpec& s) { return s.kind == spec.kind && s.find_slot(rule.slot) != nullptr; });
      const bool only_in_version_0_1 = spec.kind == "pruned-from" || (spec.kind == "distilled-from" && rule.slot == "teacher");
      CHECK((known || only_in_version_0_1));
    }
  }
}

TEST_CASE("two recipes into one run folder lose no entry of its log") {
  const TempFolder folder;
  constexpr int kEntries = 40;
  const Digest root = sha256(std::string_view("root"));
  std::vector<std::thread> recipes;
  for (const char* name : {"a", "b", "c"})
    recipes.emplace_back([&, name] {
      const RunLog log(folder.path());
      for (int i = 0; i < kEntries; ++i) log.remember(name + std::to_string(i), {root, 1.5, {"made", name}});
    });
  for (std::thread& t : recipes) t.join();
  for (const std::string name : {"a", "b", "c"})
    for (int i = 0; i < kEntries; ++i)
      CHECK(read_json(folder / "run.json").at(name + std::to_string(i)).at("summary") == Json::array({"made", name}));
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);  // no lock is left
}

TEST_CASE("'#' begins a comment at the start of a line or between blanks, and is a letter elsewhere") {
  using Catch::Contains;
  const auto path_of = [](const std::string& value) {
    return RecipeFile("[t]\nstage = import\npath = " + value + "\n").read().steps[0].files.at("path").filename();
  };
  CHECK(path_of("C#-texts") == "C#-texts");
  CHECK(path_of("m.gguf # a note") == "m.gguf");
  CHECK(path_of("m.gguf #") == "m.gguf");
  CHECK(path_of("a#b#c  # note # more") == "a#b#c");
  CHECK_THAT(RecipeFile("[t]\nstage = import\npath = m\nname = v1 #2\n").fault(), Contains("line 4") && Contains("'#2'") && Contains("--set"));
  CHECK_THAT(RecipeFile("[t]\nstage = quantize\nmodel = t\nexclude = *.q.weight, #*.k.weight\n").fault(), Contains("line 4"));
}

TEST_CASE("what editors add to a recipe is no part of it, and what they spoil is told by line") {
  using Catch::Contains;
  const Recipe recipe = RecipeFile("\xef\xbb\xbf[ t ]\r\n\tstage\t=\timport \r\npath=m.gguf").read();
  CHECK(recipe.steps[0].artifact == "t");
  CHECK(recipe.steps[0].files.at("path").filename() == "m.gguf");
  CHECK_THAT(RecipeFile("[t]\nstage = import\npath = m\nname = caf\xe9\n").fault(), Contains("line 4") && Contains("UTF-8"));
  CHECK_THAT(RecipeFile("[t]\nstage = import\npath = \"m\"\n").fault(), Contains("line 3") && Contains("without them"));
  CHECK_THAT(RecipeFile("[t]\nstage = import\rpath = m\n").fault(), Contains("line 2") && Contains("end lines with LF"));
  CHECK_THAT(RecipeFile("[t]\rstage = import\rpath = m\r").fault(), Contains("line 1") && Contains("end lines with LF"));
  CHECK_THAT(RecipeFile("[t]\nstage = import\npath = m\x1b[31m\n").fault(), Contains("line 3") && Contains("control character"));
}

TEST_CASE("sections and keys of a recipe are bounded, and the line that is too much is named") {
  std::string sections, keys = "[evaluation]\nstage = evaluate\n";
  for (int i = 0; i <= 1024; ++i) {
    sections += "[s" + std::to_string(i) + "]\nstage = import\npath = m.gguf\n";
    if (i < 1024) keys += "m" + std::to_string(i) + " = teacher\n";
  }
  CHECK_THAT(RecipeFile(sections).fault(), Catch::EndsWith("line 3073: the recipe has more than 1024 sections"));
  CHECK_THAT(RecipeFile(keys).fault(), Catch::EndsWith("line 1026: [evaluation] has more than 1024 keys"));
  CHECK(RecipeFile(sections.substr(0, sections.rfind('['))).read().steps.size() == 1024);
}

TEST_CASE("options that cannot work together end a recipe before its first step") {
  using Catch::Contains;
  const std::string all =
      "[teacher]\nstage = tiny-teacher\n[corpus]\nsource = texts\ntokenizer = teacher\nwindow-length = 64\n[statistics]\nstage = observe\n"
      "[soft-targets]\nstage = teach\ntokens = 512\n[student-init]\nstage = carve\n[student]\nstage = distill\nstudent = student-init\n"
      "targets = soft-targets\n[calibrated]\nstage = calibrate\nstudent = student\n[int8]\nstage = quantize\nmodel = calibrated\n";
  const auto outcome = [](const std::string& text, const StringList& set) {
    const RecipeFile file(text);
    write_text(file.folder / "texts/a.txt", "text");
    RecipeOptions options;
    options.out = file.folder / "run";
    options.report = [](const Answer&) { throw std::logic_error("a step began"); };
    try {
      run_recipe(file.read(set), options, Key::generate());
    } catch (const UsageError& e) {
      return std::string(e.what());
    } catch (const std::logic_error& e) {
      return std::string(e.what());
    }
    return std::string("done");
  };
  CHECK(outcome(all, {}) == "a step began");
  CHECK_THAT(outcome(all, {"student-init.top-k=16"}), Contains("top-k 16 is more than the 15 routed experts"));
  CHECK_THAT(outcome(all, {"soft-targets.tokens=63"}), Contains("[soft-targets]") && Contains("63") && Contains("one window of [corpus]"));
  CHECK(outcome(all, {"soft-targets.tokens=64"}) == "a step began");
  CHECK_THAT(outcome(all, {"int8.scheme=w8a8-static"}), Contains("needs --activations"));
  CHECK_THAT(outcome(all, {"int8.gptq=true"}), Contains("need --activations"));
  CHECK_THAT(outcome(all, {"int8.kl-budget=0.1"}), Contains("--corpus or --text"));
  CHECK_THAT(outcome(all, {"calibrated.target-kl=0.1", "calibrated.target-speed=2"}), Contains("give one"));
  CHECK_THAT(outcome(all + "[x]\nstage = quantize\nmodel = statistics\n", {}), Contains("[x]: 'model = statistics' names") && Contains("takes 'model'"));
  CHECK_THAT(outcome(all + "[x]\nstage = evaluate\nint8 = corpus\n", {}), Contains("[x]: 'int8 = corpus' names"));
  const std::string line = "targets = soft-targets\n";
  CHECK_THAT(outcome(std::string(all).erase(all.find(line), line.size()), {}), Contains("nothing to learn from"));
}

TEST_CASE("what a model cannot do is said before a recipe begins, with the way out") {
  using Catch::Contains;
  const RecipeFile file(
      "[teacher]\nstage = import\npath = model\n[corpus]\nsource = texts\ntokenizer = teacher\n[soft-targets]\nstage = teach\n"
      "[statistics]\nstage = observe\n[student]\nstage = carve\n");
  write_text(file.folder / "texts/a.txt", "text");
  Json config = {{"model_type", "llama"},        {"vocab_size", 8},          {"hidden_size", 8},
                 {"intermediate_size", 16},      {"num_hidden_layers", 1},   {"num_attention_heads", 2},
                 {"max_position_embeddings", 64}, {"tie_word_embeddings", true}};
  {
    OutputFolder out(file.folder / "model");
    fs::create_directories(file.folder / "model");
    SafetensorsWriter writer(out, "model.safetensors", {{"w", DType::f32, {1, 1}}}, {});
    writer.append("abcd", 4);
    writer.close();
  }
  const std::string tokenizer = write_tokenizer_json(small_bpe({{"w", "o"}}));
  const auto outcome = [&](const Json& changes, const std::string& tokens) {
    Json all = config;
    if (!changes.is_null()) all.update(changes);
    write_text(file.folder / "model/config.json", all.dump());
    write_text(file.folder / "model/tokenizer.json", tokens);
    std::string said;
    RecipeOptions options;
    options.out = file.folder / "run";
    options.dry_run = true;
    options.report = [&](const Answer& a) { said += a.text; };
    try {
      run_recipe(file.read(), options, Key::generate());
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return said;
  };
  const std::string good = outcome({}, tokenizer);
  CHECK_THAT(good, Contains("student (carve): would be made; about") && Contains(" of memory, ") && Contains(" of disk, ") && Contains("in all about"));
  CHECK_THAT(outcome({{"mlp_bias", true}}, tokenizer), Contains("mlp_bias") && Contains("cannot be carved"));
  CHECK_THAT(outcome({{"model_type", "olmoe"}}, tokenizer), Contains("olmoe"));
  CHECK_THAT(outcome({{"model_type", "granite"}}, tokenizer), Contains("granite can be run, but not trained"));
  CHECK_THAT(outcome({}, "{}"), Contains("tokenizer.json"));
  CHECK_FALSE(fs::exists(file.folder / "run"));
  fs::remove_all(file.folder / "texts");
  CHECK_THAT(outcome({}, tokenizer), Contains("texts") && Contains("[corpus]: the input 'source' does not exist"));
}
