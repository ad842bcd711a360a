// Tasks that the student completes, and that verifiers judge.

#include "distill/task_batches.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "core/error.h"
#include "core/temp_folder.h"
#include "distill/distill_stage.h"
#include "distill/rewards.h"
#include "distill/training.h"
#include "student/tiny_teacher_stage.h"
#include "tests/distill/random_batches.h"
#include "tests/support.h"

namespace overproof {
namespace {

constexpr int64_t kBatch = 4;

/// A tiny model with its tokenizer, and tasks that a completion with a letter of [a-m] passes.
struct Place {
  TempFolder folder;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Decoder> student;
  Place() {
    TinyTeacherConfig config;
    config.layers = 1, config.hidden_size = 32, config.intermediate_size = 64;
    fs::create_directories(folder.path() / "scratch");
    Outputs out(folder.path() / "model", folder.path() / "scratch");
    run_tiny_teacher(config, Inputs({}), out);
    tokenizer = open_tokenizer(folder.path() / "model");
    student = std::make_unique<Decoder>(open_checkpoint(folder.path() / "model"));
    std::string tasks;
    for (int i = 0; i < 5; ++i)
      tasks += Json{{"name", std::to_string(i)}, {"prompt", std::string(size_t(i) + 1, char('a' + i))}, {"verifier", {{"type", "regex"}, {"pattern", "[a-m]"}}}}.dump() + "\n";
    write_file_atomically(folder.path() / "tasks.jsonl", tasks);
  }
  TaskPrompts prompts() const { return TaskPrompts(folder.path() / "tasks.jsonl", 1, true, folder.path() / "model", *tokenizer); }
  TaskBatches batches(const OnPolicyOptions& options, std::set<int32_t> ends = {}) const {
    return TaskBatches(std::make_unique<RandomBatches>(kBatch, student->config().vocab_size, 12), kBatch, *student, tokenizer, prompts(), {}, std::move(ends),
                       options, sha256(std::string_view("order")), 7);
  }
};

}  // namespace

TEST_CASE("a step of tasks has a group of completions for each, their rewards, and the window behind them") {
  const Place place;
  const OnPolicyOptions options{.share = 1, .tokens = 6, .group = 2};
  const TaskBatches batches = place.batches(options);
  const TaskPrompts prompts = place.prompts();
  CHECK(batches.source_names() == std::vector<std::string>{"a", "b", "tasks"});
  std::multiset<std::string> asked;
  for (int64_t step = 0; step < 5; ++step) {
    const TokenBatch batch = batches.at(step), window = RandomBatches(kBatch, place.student->config().vocab_size, 12).at(step);
    REQUIRE(batch.reward.size() == size_t(kBatch));
    const std::vector<float> advantages = group_advantages(batch.reward, 2);
    for (int64_t b = 0; b < kBatch; ++b) {
      const auto ids = batch.sequence_ids(b), old = window.sequence_ids(b);
      const auto row = size_t(b * kLength);
      const std::span weight = std::span(batch.weight).subspan(row, size_t(kLength)), advantage = std::span(batch.advantage).subspan(row, size_t(kLength));
      const auto first = std::ranges::find(weight, 1.0f) - weight.begin();
      const auto written = std::ranges::count(weight, 1.0f);
      const int64_t prompt = first + 1, end = prompt + written;
      CHECK(written == std::min<int64_t>(6, kLength + 1 - prompt));
      int64_t task = -1;  // whose prompt these ids are
      for (int64_t t = 0; t < prompts.count(); ++t) {
        const auto& opening = prompts.opening(t).ids;
        if (int64_t(opening.size()) == prompt && std::equal(opening.begin(), opening.end(), ids.begin())) task = t;
      }
      REQUIRE(task >= 0);
      if (b % 2 == 0) asked.insert(prompts.task(task).name);
      else CHECK(std::equal(ids.begin(), ids.begin() + prompt, batch.sequence_ids(b - 1).begin()));
      std::vector<int32_t> completion(ids.begin() + prompt, ids.begin() + end);
      const std::string text = place.tokenizer->decode(completion);
      CHECK(batch.reward[size_t(b)] == (std::ranges::any_of(text, [](char c) { return c >= 'a' && c <= 'm'; }) ? 1.0f : 0.0f));
      for (int64_t i = 0; i < kLength; ++i) {
        CHECK(advantage[size_t(i)] == (i >= first && i < first + written ? advantages[size_t(b)] : 0.0f));
        CHECK(batch.segment[row + size_t(i)] == (i < end ? 0 : 1));
        CHECK(batch.source[row + size_t(i)] == (i < end ? 2 : window.source[row + size_t(i)]));
      }
      for (int64_t i = end; i <= kLength; ++i) CHECK(ids[size_t(i)] == old[size_t(i)]);
    }
  }
  CHECK(asked.size() == 10);
  for (int i = 0; i < 5; ++i) CHECK(asked.count(std::to_string(i)) == 2);  // each once before any again
  CHECK(batches.at(3).ids == place.batches(options).at(3).ids);
}

TEST_CASE("steps of windows are the windows, and an end id is not part of what is judged") {
  const Place place;
  const TaskBatches half = place.batches({.share = 0.5, .tokens = 4, .group = 4});
  const TokenBatch window = half.at(0);
  CHECK(half.follows(0));
  CHECK_FALSE(half.follows(1));
  CHECK((window.reward.empty() && window.advantage.empty()));
  CHECK(window.ids == RandomBatches(kBatch, place.student->config().vocab_size, 12).at(0).ids);
  std::set<int32_t> all;
  for (int32_t id = 0; id < place.student->config().vocab_size; ++id) all.insert(id);
  const TokenBatch ended = place.batches({.share = 1, .tokens = 4, .group = 4}, all).at(0);  // everything ends a text: nothing is left to judge
  CHECK(ended.total_weight() == kBatch);
  CHECK(ended.reward == std::vector<float>(size_t(kBatch), 0.0f));
}

TEST_CASE("training on rewards raises them") {
  const Place place;
  constexpr int64_t kMany = 8, kSteps = 48;
  auto student = std::make_unique<Decoder>(open_checkpoint(place.folder.path() / "model"));
  const auto teacher = std::make_shared<const Decoder>(open_checkpoint(place.folder.path() / "model"));
  auto batches = std::make_unique<TaskBatches>(std::make_unique<RandomBatches>(kMany, student->config().vocab_size, kSteps), kMany, *student, place.tokenizer,
                                               place.prompts(), VerifierOptions{}, std::set<int32_t>{}, OnPolicyOptions{.share = 1, .tokens = 3, .group = 8},
                                               sha256(std::string_view("order")), 7);
  TrainOptions options{.batch_size = kMany, .micro_batch = kMany, .learning_rate = 3e-3, .schedule = Schedule::constant};
  options.train = {"all"};
  Training training(std::move(student), std::move(batches), live_signal(teacher), {{&kReward, 1.0}}, options);
  double first = 0, last = 0;
  for (int64_t s = 0; s < kSteps; ++s) {
    training.step();
    REQUIRE(training.reward());
    if (s < kSteps / 4) first += *training.reward() / double(kSteps / 4);
    if (s >= kSteps - kSteps / 4) last += *training.reward() / double(kSteps / 4);
  }
  CHECK(first < 0.7);
  CHECK(last > first + 0.2);
}

TEST_CASE("what cannot be a step of tasks is refused") {
  const Place place;
  CHECK_THROWS_WITH(place.batches({.share = 1, .group = 3}), Catch::Contains("'on-policy-group'") && Catch::Contains("whole groups of 3"));
  std::string tasks = Json{{"name", "long"}, {"prompt", std::string(4 * size_t(kLength), 'q')}, {"verifier", {{"type", "regex"}, {"pattern", "a"}}}}.dump() + "\n";
  write_file_atomically(place.folder.path() / "tasks.jsonl", tasks);
  CHECK_THROWS_WITH(place.batches({.share = 1, .group = 2}), Catch::Contains("'long'") && Catch::Contains("--window-length"));
}

}  // namespace overproof
