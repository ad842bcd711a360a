#pragma once
// The judges of `arena`: which of two answers wins a battle.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "core/stage.h"
#include "evaluate/arena_stage.h"
#include "verify/task.h"

namespace overproof {

/// The answers of all models to the same prompts.
struct ArenaAnswers {
  std::vector<Task> tasks;
  std::vector<std::string> models;
  std::vector<std::vector<std::string>> texts;  ///< [models][tasks]
};

/// A judged battle of models a < b (by number) on one prompt.
struct JudgedBattle {
  int64_t prompt = 0;
  int32_t a = 0, b = 0;
  std::optional<double> score;  ///< 1: a won; 0: b won; 0.5: a tie; nothing: no verdict
  Json details;                 ///< members of its line in battles.jsonl
};

/// What a judge behind a URL cost.
struct JudgeCost {
  int64_t requests = 0, answered_before = 0, tokens = 0;
  std::string endpoint, model;
};

/// All battles, by prompt, then by a, then by b. A judge of one answer at a time sees no order; one behind a URL sees every pair twice, in both orders, and neither
/// name nor what is known of a model. Throws as run_arena.
std::vector<JudgedBattle> judge_battles(const ArenaConfig& config, const Inputs& inputs, const Outputs& outputs, const ArenaAnswers& answers, JudgeCost& cost);

/// The messages of one request to a judge behind a URL. Public for its test.
Json judge_messages(const Task& task, const std::string& first, const std::string& second);
/// The last [[A]], [[B]] or [[C]] in what a judge wrote: 1 for the first answer, 0 for the second, 0.5 for a tie. Nothing without one.
std::optional<double> verdict_in(std::string_view text);
/// Of the verdicts for both orders, each as a score of a: the same one, or, where they differ, a tie. Nothing where one is missing.
std::optional<double> both_orders(const std::optional<double>& a_first, const std::optional<double>& b_first);

}  // namespace overproof
