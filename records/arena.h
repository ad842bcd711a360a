#pragma once
// arena.json: ratings of models by the battles of their answers to the same prompts, as `arena` (evaluate/arena_stage.h) measured them.
//
//   {"judge": "verifier", "prompts": 40, "draws": 1000, "seed": 0, "scale": 400.0, "mean": 1000.0, "with_prior": false, "draws_with_prior": 3, "not_judged": 0,
//    "models": [{"name": "int8", "rating": 1012.5, "low": 980.1, "high": 1050.2, "wins": 20, "losses": 15, "ties": 5}, ...],
//    "pairs": [{"a": "int8", "b": "student", "wins_a": 20, "wins_b": 15, "ties": 5}, ...]}
//
// The models by their rating, the highest first, equal ones by name; pairs in the order of slots.
//
//   judge             "verifier", "likelihood" or "openai-url"
//   rating            maximum-likelihood estimate of Bradley and Terry (1952): P(a beats b) = 1 / (1 + 10^((rating_b - rating_a) / scale)), a tie half a win of
//                     each; the mean of all ratings is `mean`
//   low, high         95 % interval: percentiles of `draws` samples of the prompts with replacement
//   with_prior        whether the battles have no finite maximum, as when a model wins all of its: then half a tie is added to each pair.
//                     draws_with_prior: samples of which that is so
//   not_judged        battles without a verdict; they count for nothing
//
// Next to it, JSON Lines:
//   battles.jsonl     {"prompt", "a", "b", "winner": "a" | "b" | "tie" | null, and what the judge gave: "verdicts" or "log_probabilities" (of a and b), or
//                     "judgements": [{"first": "a", "verdict": "a" | "b" | "tie" | null, "text": "..."}, {"first": "b", ...}]}
//   answers.jsonl     {"model", "prompt", "answer"}

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"

namespace overproof {

inline constexpr const char* kArenaFile = "arena.json";
inline constexpr const char* kBattlesFile = "battles.jsonl";
inline constexpr const char* kArenaAnswersFile = "answers.jsonl";

struct ArenaModel {
  std::string name;
  double rating = 0, low = 0, high = 0;
  int64_t wins = 0, losses = 0, ties = 0;
};

struct ArenaPair {
  std::string a, b;
  int64_t wins_a = 0, wins_b = 0, ties = 0;
};

struct Arena {
  std::string judge;
  int64_t prompts = 0, draws = 0, seed = 0;
  double scale = 400, mean = 1000;
  bool with_prior = false;
  int64_t draws_with_prior = 0, not_judged = 0;
  std::vector<ArenaModel> models;
  std::vector<ArenaPair> pairs;
};

Json to_json(const Arena& arena);
/// Reads the file's text. Throws FormatError naming `origin` and the member.
Arena parse_arena(std::string_view text, const fs::path& origin);

}  // namespace overproof
