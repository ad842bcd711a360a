#include "evaluate/arena_stage.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/progress.h"
#include "evaluate/arena_judges.h"
#include "evaluate/bradley_terry.h"
#include "formats/generation_config.h"
#include "model/generator.h"
#include "records/arena.h"
#include "records/evidence.h"
#include "teacher/document_writer.h"
#include "teacher/task_prompts.h"

namespace overproof {
namespace {

constexpr size_t kMostModels = 64;

bool competes(const std::string& slot) { return slot != "tasks" && slot != "judge-model" && slot != "command"; }

void require_judge(const ArenaConfig& config, const Inputs& inputs) {
  const bool given = inputs.has("judge-model");
  if (config.judge == ArenaJudge::verifier && given) throw UsageError("arena: --judge verifier takes no --judge-model; the tasks have verifiers");
  if (config.judge == ArenaJudge::likelihood && !given) throw UsageError("arena: --judge likelihood needs --judge-model, a checkpoint");
  if (config.judge == ArenaJudge::server && !given)
    throw UsageError("arena: --judge openai-url needs --judge-model, an artifact that `overproof connect` made of the server");
  if (given && is_remote_teacher(inputs.path("judge-model")) != (config.judge == ArenaJudge::server))
    throw MismatchError(fmt::format("{}: is {}; --judge {} takes {}", inputs.path("judge-model").string(),
                                    config.judge == ArenaJudge::server ? "no artifact of `overproof connect`" : "a server",
                                    config.judge == ArenaJudge::server ? "openai-url" : "likelihood",
                                    config.judge == ArenaJudge::server ? "one" : "a checkpoint"));
  if (config.judge != ArenaJudge::verifier && inputs.has("command")) throw UsageError("arena: --command judges tasks for --judge verifier only");
}

/// What one model writes after all prompts, in its own template.
std::vector<std::string> write_arena_answers(const ArenaConfig& config, const fs::path& path, const fs::path& tasks, Progress& progress, int64_t& done,
                                             const std::string& name) {
  const auto tokenizer = open_tokenizer(path);
  const Checkpoint checkpoint = open_checkpoint(path);
  const Generator model(checkpoint);
  const TaskPrompts prompts(tasks, 1, config.plain_prompts, path, *tokenizer, true, TaskUse::prompted);
  if (const int64_t context = model.config().context(); context > 0)
    for (int64_t i = 0; i < prompts.count(); ++i)
      if (int64_t(prompts.opening(i).ids.size()) + config.max_tokens > context)
        throw MismatchError(fmt::format("task '{}' has {} tokens for model '{}', and with {} of an answer more than its context of {}; use a shorter prompt or "
                                        "--max-tokens",
                                        prompts.task(i).name, prompts.opening(i).ids.size(), name, config.max_tokens, context));
  std::vector<int64_t> ends = end_ids(path, *checkpoint.config);
  ends.insert(ends.end(), prompts.ends().begin(), prompts.ends().end());
  const DocumentWriter writer(model, *tokenizer,
                              {.sampling = {.temperature = config.temperature, .top_p = config.top_p},
                               .seed = config.seed,
                               .max_tokens = config.max_tokens,
                               .batch = config.batch_size,
                               .ends = std::move(ends)},
                              nullptr);
  std::vector<std::string> texts;
  writer.write(
      0, prompts.count(), [&](int64_t i) -> const Opening& { return prompts.opening(i); },
      [&](int64_t, std::vector<int32_t> ids) {
        texts.push_back(tokenizer->decode(ids));
        progress.update(++done, name);
      });
  return texts;
}

const char* winner_name(const std::optional<double>& score) { return *score == 1 ? "a" : *score == 0 ? "b" : "tie"; }

/// The battles that have a verdict, with sums in `arena`.
std::vector<Battle> counted(const std::vector<JudgedBattle>& judged, Arena& arena) {
  const size_t n = arena.models.size();
  std::vector<Battle> battles;
  std::vector<size_t> pair_of(n * n);
  for (size_t a = 0, p = 0; a < n; ++a)
    for (size_t b = a + 1; b < n; ++b, ++p) {
      pair_of[a * n + b] = p;
      arena.pairs.push_back({arena.models[a].name, arena.models[b].name});
    }
  for (const JudgedBattle& one : judged) {
    if (!one.score) {
      ++arena.not_judged;
      continue;
    }
    ArenaModel &a = arena.models[size_t(one.a)], &b = arena.models[size_t(one.b)];
    ArenaPair& pair = arena.pairs[pair_of[size_t(one.a) * n + size_t(one.b)]];
    if (*one.score == 1) ++a.wins, ++b.losses, ++pair.wins_a;
    else if (*one.score == 0) ++b.wins, ++a.losses, ++pair.wins_b;
    else ++a.ties, ++b.ties, ++pair.ties;
    battles.push_back({one.a, one.b, *one.score, one.prompt});
  }
  for (const ArenaPair& pair : arena.pairs)
    if (pair.wins_a + pair.wins_b + pair.ties == 0)
      throw QualityError(fmt::format("the judge gave no verdict on '{}' against '{}', so they cannot be rated; it must end with [[A]], [[B]] or [[C]]", pair.a, pair.b));
  return battles;
}

std::vector<std::string> arena_table(const Arena& arena, const std::string& judge) {
  size_t width = 5;
  for (const ArenaModel& m : arena.models) width = std::max(width, m.name.size());
  std::vector<std::string> lines = {
      fmt::format("{} prompts, judge: {}; ratings by Bradley and Terry, {:.0f} points are odds of 10 to 1, the mean is {:.0f}", arena.prompts, judge, arena.scale, arena.mean),
      fmt::format("{:<{}}  {:>7}  {:>17}  {:>6}  {:>6}  {:>6}", "model", width, "rating", "95 % interval", "wins", "losses", "ties")};
  for (const ArenaModel& m : arena.models)
    lines.push_back(fmt::format("{:<{}}  {:>7.1f}  {:>17}  {:>6}  {:>6}  {:>6}", m.name, width, m.rating, fmt::format("{:.1f} to {:.1f}", m.low, m.high), m.wins, m.losses, m.ties));
  if (arena.not_judged > 0) lines.push_back(fmt::format("{} battles without a verdict count for nothing", arena.not_judged));
  if (arena.with_prior)
    lines.push_back("note: the battles have no finite maximum of the likelihood (a model won or lost all of its battles with others); half a tie was added to each pair");
  else if (arena.draws_with_prior > 0)
    lines.push_back(fmt::format("note: {} of {} samples have no finite maximum of the likelihood; half a tie was added to each of their pairs", arena.draws_with_prior, arena.draws));
  return lines;
}

}  // namespace

StageReport run_arena(const ArenaConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  require_judge(config, inputs);
  ArenaAnswers answers;
  answers.tasks = read_tasks(inputs.path("tasks"), config.judge == ArenaJudge::verifier ? TaskUse::verified : TaskUse::prompted);
  for (const auto& [slot, artifact] : inputs.all())
    if (competes(slot)) answers.models.push_back(slot);
  if (answers.models.size() < 2 || answers.models.size() > kMostModels)
    throw UsageError(fmt::format("arena: {} models are given; it takes 2 to {}, as --NAME FOLDER", answers.models.size(), kMostModels));
  {
    Progress progress("arena", int64_t(answers.models.size() * answers.tasks.size()), "answers");
    int64_t done = 0;
    for (const std::string& name : answers.models)
      answers.texts.push_back(write_arena_answers(config, inputs.path(name), inputs.path("tasks"), progress, done, name));
  }
  JudgeCost cost;
  const std::vector<JudgedBattle> judged = judge_battles(config, inputs, outputs, answers, cost);

  const auto models = int64_t(answers.models.size()), prompts = int64_t(answers.tasks.size());
  const char* judge = config.judge == ArenaJudge::verifier ? "verifier" : config.judge == ArenaJudge::likelihood ? "likelihood" : "openai-url";
  Arena arena{.judge = judge, .prompts = prompts, .draws = config.draws, .seed = config.seed, .scale = kRatingScale, .mean = kRatingMean};
  for (const std::string& name : answers.models) arena.models.push_back({.name = name});
  const std::vector<Battle> battles = counted(judged, arena);
  const Ratings ratings = bradley_terry(battles, models);
  const RatingIntervals intervals = rating_intervals(battles, models, prompts, config.draws, config.seed);
  arena.with_prior = ratings.with_prior;
  arena.draws_with_prior = intervals.draws_with_prior;
  for (size_t m = 0; m < arena.models.size(); ++m)
    arena.models[m].rating = ratings.values[m], arena.models[m].low = intervals.low[m], arena.models[m].high = intervals.high[m];
  std::ranges::stable_sort(arena.models, [](const ArenaModel& a, const ArenaModel& b) { return a.rating > b.rating; });

  std::string battle_lines, answer_lines;
  for (const JudgedBattle& one : judged) {
    Json line = {{"prompt", answers.tasks[size_t(one.prompt)].name},
                 {"a", answers.models[size_t(one.a)]},
                 {"b", answers.models[size_t(one.b)]},
                 {"winner", one.score ? Json(winner_name(one.score)) : Json(nullptr)}};
    line.update(one.details);
    battle_lines += dump_text(line) + "\n";
  }
  for (size_t m = 0; m < answers.models.size(); ++m)
    for (size_t t = 0; t < answers.tasks.size(); ++t)
      answer_lines += dump_text({{"model", answers.models[m]}, {"prompt", answers.tasks[t].name}, {"answer", answers.texts[m][t]}}) + "\n";
  const Json result = to_json(arena);
  outputs.folder().write_file(kArenaFile, result.dump(1) + "\n");
  outputs.folder().write_file(kBattlesFile, battle_lines);
  outputs.folder().write_file(kArenaAnswersFile, answer_lines);

  StageReport report;
  report.metrics() = {{"arena", result}, {"battles", judged.size()},
                      {"evidence", evidence_name(config.asks_server() ? Evidence::recorded : Evidence::re_derivable)}};
  report.summary = arena_table(arena, config.asks_server() ? fmt::format("{} at {}", cost.model, url_without_secrets(cost.endpoint)) : judge);
  if (config.asks_server()) {
    report.metrics()["endpoint"] = cost.endpoint;
    report.metrics()["judge_model"] = cost.model;
    report.metrics()["requests"] = cost.requests;
    report.metrics()["tokens_paid"] = cost.tokens;
    report.summary.push_back(fmt::format("{} judgements, {} of them answered before this run; {} tokens paid", cost.requests, cost.answered_before, cost.tokens));
    report.summary.emplace_back("evidence: recorded; no audit can ask the judge again");
  }
  return report;
}

}  // namespace overproof
