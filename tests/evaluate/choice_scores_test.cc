#include "evaluate/choice_scores.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "student/tiny_teacher_stage.h"
#include "tests/support.h"

using namespace overproof;

namespace {

struct TinyModel {
  TempFolder folder;
  TinyModel() {
    Outputs outputs(folder.path(), folder.path() / "scratch");
    run_tiny_teacher({.layers = 2, .hidden_size = 32, .intermediate_size = 64, .seed = 3}, Inputs({}), outputs);
  }
  /// With a context of `most` tokens.
  Decoder decoder(int64_t most) const {
    const Checkpoint checkpoint = open_checkpoint(folder.path());
    ModelConfig config = ModelConfig::from_json(*checkpoint.config, "config.json");
    config.max_position = most;
    return Decoder(config, *checkpoint.tensors);
  }
};

/// lm-evaluation-harness's rule, one pair after another, in double.
std::pair<double, bool> by_definition(const Decoder& model, const ChoiceIds& pair, int64_t most) {
  std::vector<int64_t> all(pair.context.begin(), pair.context.end());
  all.insert(all.end(), pair.continuation.begin(), pair.continuation.end());
  if (int64_t(all.size()) > most + 1) all.erase(all.begin(), all.end() - (most + 1));
  const at::Tensor input = at::tensor(std::vector<int64_t>(all.begin(), all.end() - 1), at::kLong).unsqueeze(0);
  const at::Tensor logs = at::log_softmax(model.logits(model.hidden(input)).to(at::kDouble), -1);
  double sum = 0;
  bool greedy = true;
  for (size_t i = all.size() - pair.continuation.size(); i < all.size(); ++i) {
    sum += logs[int64_t(i) - 1][all[i]].item<double>();
    greedy &= logs[int64_t(i) - 1].argmax().item<int64_t>() == all[i];
  }
  return {sum, greedy};
}

}  // namespace

TEST_CASE_METHOD(TinyModel, "likelihoods are those of each pair alone, whatever the batch, also where contexts are cut") {
  Rng rng(4, "test/choices");
  std::vector<ChoiceQuestion> questions;
  std::vector<EncodedQuestion> encoded;
  for (int q = 0; q < 12; ++q) {
    ChoiceQuestion question{.task = "t", .name = std::to_string(q), .choices = {"a", "b", "c"}};
    EncodedQuestion ids;
    std::vector<int32_t> context;
    for (int64_t i = 0; i < 1 + 3 * q; ++i) context.push_back(int32_t(rng.below(256)));
    for (int64_t c = 0; c < 3; ++c) {
      ChoiceIds pair{context, {}};
      for (int64_t i = 0; i <= (c * q) % 5; ++i) pair.continuation.push_back(int32_t(rng.below(256)));
      if (c == 2) pair.continuation.insert(pair.continuation.begin(), ids.choices[1].continuation.begin(), ids.choices[1].continuation.end());  // begins like another
      ids.choices.push_back(pair);
    }
    questions.push_back(question);
    encoded.push_back(ids);
  }
  for (const int64_t most : {4096, 12}) {
    const Decoder model = decoder(most);
    int64_t last = 0;
    const auto scores = score_choices(model, questions, encoded, 5, [&](int64_t done) { last = done; });
    CHECK(last == 36);
    const auto single = score_choices(model, questions, encoded, 1);
    for (size_t q = 0; q < questions.size(); ++q)
      for (size_t c = 0; c < 3; ++c) {
        const auto [sum, greedy] = by_definition(model, encoded[q].choices[c], most);
        CAPTURE(most, q, c);
        CHECK(scores[q].log_likelihoods[c] == Approx(sum).epsilon(1e-5));
        CHECK(single[q].log_likelihoods[c] == Approx(sum).epsilon(1e-5));
        CHECK(scores[q].greedy[c] == greedy);
      }
  }
  CHECK_THROWS_WITH(score_choices(decoder(4), questions, encoded, 5), Catch::Contains("more than the model's context of 4"));
}

TEST_CASE("accuracy is by likelihood and by likelihood per byte, with the standard error of the mean") {
  std::vector<ChoiceQuestion> questions;
  const auto add = [&](const std::string& task, std::vector<std::string> choices, int64_t answer) {
    questions.push_back({.task = task, .name = std::to_string(questions.size()), .choices = std::move(choices), .answer = answer});
  };
  add("a", {"xy", "long text"}, 1);  // -3 < -4.5 by likelihood, per byte -1.5 < -0.5
  add("b", {"x", "y"}, 0);
  add("a", {"é", "e"}, 0);  // two bytes
  add("a", {"x", "y", "z"}, 2);
  const std::vector<ChoiceScore> scores = {{{-3, -4.5}, {false, true}}, {{-1, -1}, {true, true}}, {{-3, -2}, {false, false}}, {{-9, -9, -1}, {false, false, true}}};
  const auto tasks = task_scores(questions, scores);
  REQUIRE(tasks.size() == 2);
  CHECK(tasks[0].name == "a");
  CHECK(tasks[0].questions == 3);
  CHECK(*tasks[0].acc == Approx(1.0 / 3));
  CHECK(*tasks[0].acc_norm == Approx(1.0));
  CHECK(*tasks[0].acc_stderr == Approx(std::sqrt((2.0 / 9) / 2)));  // sum of squares 2/3, over 3 - 1, over 3
  CHECK(*tasks[0].acc_norm_stderr == 0.0);
  CHECK(*tasks[0].greedy == Approx(2.0 / 3));
  CHECK(tasks[1].name == "b");
  CHECK(*tasks[1].acc == 1.0);  // the first of equal ones
  CHECK_FALSE(tasks[1].acc_stderr);
  const std::string lines = score_lines("m", questions, scores);
  const Json first = Json::parse(lines.substr(0, lines.find('\n')));
  CHECK(first["choice"] == 0);
  CHECK(first["choice_by_bytes"] == 1);
  CHECK(first["greedy"] == Json({false, true}));
}

TEST_CASE("a choice that the tokenizer joins with the context is refused") {
  const TinyModel tiny;
  const auto tokenizer = open_tokenizer(tiny.folder.path());
  CHECK_THROWS_WITH(encode_questions(*tokenizer, false, {{.task = "t", .name = "n", .context = "a", .delimiter = "", .choices = {"b", ""}}}),
                    Catch::Contains("choice 1 of question 'n'"));
}
