#include <catch2/catch.hpp>
#include <sstream>

#include "audit/impact.h"
#include "core/error.h"
#include "tests/audit/synthetic_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

/// "mine" sent 30 of its 40 tokens to expert 1, where 10 of another source went; expert 2 took nothing.
RouterCounts plain() { return {{"mine", "other"}, 1, 3, {40, 60}, {10, 30, 0, 50, 10, 0}}; }

}  // namespace

TEST_CASE("experts are ranked by the share of their tokens that a source sent") {
  const auto rows = experts_of_source(plain(), 0, 3);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].expert == 1);
  CHECK(rows[0].tokens == 30);
  CHECK(rows[0].mass == Approx(0.75));
  CHECK(rows[0].share == Approx(0.75));
  CHECK(rows[0].lift == Approx(0.75 / 0.4));
  CHECK(rows[1].expert == 0);
  CHECK(rows[1].mass == Approx(1.0 / 6));
  CHECK(rows[2].mass == 0);
  CHECK(experts_of_source(plain(), 0, 1).size() == 1);
}

TEST_CASE("sources are ranked by their share of an expert") {
  const auto rows = sources_of_expert(plain(), 0, 0, 5);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].source == "other");
  CHECK(rows[0].mass == Approx(5.0 / 6));
  CHECK(rows[0].share == Approx(5.0 / 6));
  CHECK(sources_of_expert(plain(), 0, 2, 5).empty());
}

TEST_CASE("impact reads the counts of the most training, or of the artifact that is named") {
  const SyntheticRun run;
  ImpactConfig config;
  config.source = "pack";
  const Impact found = find_impact(run.path(), config);
  CHECK(found.artifact == "calibrated");  // has twice the student's
  REQUIRE(found.rows.size() == 9);
  CHECK(found.rows[6].layer == 2);
  CHECK(found.rows[6].expert == 3);
  CHECK(found.rows[6].mass == Approx(12.0 / 22));
  CHECK(found.rows[6].lift == Approx(12.0 / 22 / (30.0 / 70)));
  config.artifact = "student";
  CHECK(find_impact(run.path(), config).rows[6].tokens == 12);
  config.artifact = "int8";
  CHECK_THROWS_AS(find_impact(run.path(), config), UsageError);
  config.artifact = "";
  config.source = "pakc";
  CHECK_THROWS_WITH(find_impact(run.path(), config), Contains("did you mean 'pack'"));
  config.source = "";
  config.expert = "1:2";
  REQUIRE(find_impact(run.path(), config).rows.size() == 2);
  for (const std::string wrong : {"3:0", "0:4", "1", "1:", ":1", "1:2x", "-1:0"}) {
    config.expert = wrong;
    CHECK_THROWS_AS(find_impact(run.path(), config), UsageError);
  }
}

TEST_CASE("impact prints what it found") {
  const SyntheticRun run;
  ImpactConfig config;
  const Answer overview = audit_impact(config, run.path());
  CHECK(overview.exit_code == 0);
  CHECK_THAT(overview.text, Contains("pack: 120 tokens"));
  config.source = "pack";
  config.top = 1;
  const Answer answer = audit_impact(config, run.path());
  const Json& value = answer.json;
  CHECK(value["rows"].size() == 3);
  CHECK(value["rows"][0]["expert"] == 3);
  CHECK(value["source_tokens"] == 120);
  CHECK_THAT(answer.text, Contains("layer 2 expert 3: 54.5 %"));
  write_text(run.path() / "student/steps.jsonl", "{}");
  CHECK_THROWS_AS(audit_impact(config, run.path()), ProvenanceError);
}
