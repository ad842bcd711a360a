#include "pipeline/recompute.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "core/parallel.h"
#include "core/progress.h"
#include "pipeline/recipe.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// A model from outside and its 8-bit form, made with one thread.
void make_run(const fs::path& folder) {
  set_progress_mode(ProgressMode::off);
  std::ofstream(folder / "recipe.ini") << "[teacher]\nstage = import\npath = " << OVERPROOF_SOURCE_DIR
                                       << "/tests/golden/decoder/llama\n[int8]\nstage = quantize\nmodel = teacher\n";
  set_thread_count(1);
  RecipeOptions options;
  options.out = folder / "run";
  run_recipe(read_recipe(folder / "recipe.ini", {}), options, Key::generate());
}

const Recomputed& result_of(const Recomputation& r, const std::string& artifact) {
  for (const Recomputed& a : r.artifacts)
    if (a.artifact == artifact) return a;
  throw std::logic_error("no artifact " + artifact);
}

}  // namespace

TEST_CASE("an artifact is made again with the threads in its statement, and the process's number is restored") {
  const TempFolder folder;
  make_run(folder.path());
  set_thread_count(2);
  RecomputeConfig config;
  const Recomputation r = recompute(config, folder / "run");
  CHECK(thread_count() == 2);
  CHECK(r.holds());
  CHECK(result_of(r, "int8").status == Recomputed::Status::equal);
  CHECK(result_of(r, "teacher").status == Recomputed::Status::left);
  const Answer answer = audit_recompute(config, folder / "run");
  CHECK(answer.exit_code == 0);
  CHECK_THAT(answer.text, Catch::Contains("1 made again byte for byte, 0 differ, 0 could not be made again, 1 left"));
  CHECK(answer.json["holds"] == true);
  set_thread_count(0);
}

TEST_CASE("what was asked for and could not be made again does not hold") {
  const TempFolder folder;
  make_run(folder.path());
  RecomputeConfig config;
  config.stages = {"all"};  // the import, too, whose file is not given
  const Answer answer = audit_recompute(config, folder / "run");
  CHECK(answer.exit_code == 4);
  CHECK(answer.json["holds"] == false);
  CHECK_THAT(answer.text, Catch::Contains("1 could not be made again") && Catch::Contains("Nothing is shown of what"));
  config.file = {{"path", (fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/decoder/llama").string()}};
  CHECK(audit_recompute(config, folder / "run").exit_code == 0);
  set_thread_count(0);
}

TEST_CASE("what recompute needs is what the selected stages need") {
  const TempFolder folder;
  make_run(folder.path());
  RecomputeConfig config;
  CHECK(recompute_needs(config, folder / "run") == Needs::nothing);
  config.stages = {"all"};
  CHECK(recompute_needs(config, folder / "run") == Needs::nothing);
  CHECK(recompute_needs(config, folder / "run/int8") == Needs::nothing);
  set_thread_count(0);
}
