#include "records/evaluation.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"

using namespace overproof;

TEST_CASE("an evaluation comes back as it was written") {
  const Evaluation evaluation{64,
                              2,
                              {{.name = "teacher", .perplexity = 12.5, .kl_mean = 0.0, .bytes = 3000, .parameters = 7},
                               {.name = "int8",
                                .perplexity = 20.25,
                                .kl_p99 = 3.5,
                                .top1_agreement = 0.71,
                                .bytes_per_token = 11,
                                .loops = 0.25,
                                .loops_penalised = 0.125,
                                .answer_agreement = 0.5,
                                .texts = {{.name = "samples", .tokens = 40, .kl_mean = 0.5}, {.name = "other"}},
                                .calibration_error = 0.03,
                                .tasks = {{.name = "cloze", .questions = 9, .acc = 0.5, .acc_stderr = 0.1, .greedy = 0.25}, {.name = "x"}}}},
                              20,
                              1.25};
  const std::string text = to_json(evaluation).dump(1);
  const Evaluation back = parse_evaluation(text, "evaluation.json");
  CHECK(to_json(back).dump(1) == text);
  CHECK(back.tokens == 64);
  REQUIRE(back.rows.size() == 2);
  CHECK(back.rows[0].kl_mean == 0.0);
  CHECK(back.rows[0].bytes == 3000);
  CHECK_FALSE(back.rows[0].active_parameters);
  CHECK(back.rows[1].top1_agreement == 0.71);
  CHECK(back.prompts == 20);
  CHECK(back.rows[1].loops == 0.25);
  CHECK(back.rows[1].loops_penalised == 0.125);
  CHECK(back.repetition_penalty == 1.25);
  CHECK(back.rows[1].bytes_per_token == 11);
  REQUIRE(back.rows[1].texts.size() == 2);
  CHECK(back.rows[1].texts[0].name == "samples");
  CHECK(back.rows[1].texts[0].kl_mean == 0.5);
  CHECK_FALSE(back.rows[1].texts[0].perplexity);
  CHECK(back.rows[1].calibration_error == 0.03);
  REQUIRE(back.rows[1].tasks.size() == 2);
  CHECK(back.rows[1].tasks[0].questions == 9);
  CHECK(back.rows[1].tasks[0].acc_stderr == 0.1);
  CHECK_FALSE(back.rows[1].tasks[0].acc_norm);
}

TEST_CASE("a measurement may be missing or null, but has its type") {
  const Evaluation e = parse_evaluation(R"({"models": [{"name": "a", "perplexity": null, "kl_mean": 1}]})", "x");
  CHECK_FALSE(e.tokens);
  REQUIRE(e.rows.size() == 1);
  CHECK_FALSE(e.rows[0].perplexity);
  CHECK_FALSE(e.rows[0].bytes);
  CHECK(e.rows[0].kl_mean == 1.0);
  for (const char* text : {"[]", "{}", R"({"models": 3})", "{", "", R"({"models": [3]})", R"({"models": [{"name": 7}]})", R"({"models": [{}]})",
                           R"({"models": [{"name": "a", "kl_mean": "x"}]})", R"({"models": [{"name": "a", "bytes": -1}]})",
                           R"({"models": [{"name": "a", "bytes": 1.5}]})", R"({"models": [], "tokens": "5"})",
                           R"({"models": [{"name": "a", "texts": [{}]}]})", R"({"models": [{"name": "a", "texts": {}}]})",
                           R"({"models": [{"name": "a", "tasks": [{}]}]})", R"({"models": [{"name": "a", "tasks": [{"name": "t", "acc": "1"}]}]})",
                           R"({"models": [{"name": "a", "tasks": [{"name": "t", "questions": -1}]}]})"})
    CHECK_THROWS_AS(parse_evaluation(text, "x"), FormatError);
}
