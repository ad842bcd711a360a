#pragma once
// Stage "arena": models answer the same prompts, each pair of answers is a battle, and battles give ratings (evaluate/bradley_terry.h).
//
// Writes arena.json, battles.jsonl and answers.jsonl (records/arena.h).

#include <cstdint>

#include "core/config.h"
#include "core/stage.h"
#include "remote/caller.h"

namespace overproof {

enum class ArenaJudge { verifier, likelihood, server };

struct ArenaConfig {
  ArenaJudge judge = ArenaJudge::verifier;
  int64_t max_tokens = 128, batch_size = 16, seed = 0, draws = 1000, judge_tokens = 512;
  double temperature = 0, top_p = 1, tie_margin = 0, seconds = 10;
  bool plain_prompts = false;
  CallOptions call;
  template <class V>
  void visit(V&& v) {
    v("judge", judge,
      enum_of<ArenaJudge>({{"verifier", ArenaJudge::verifier}, {"likelihood", ArenaJudge::likelihood}, {"openai-url", ArenaJudge::server}}),
      "verifier: the tasks' own verifiers; likelihood: the mean log-probability of an answer's tokens by --judge-model; openai-url: a server, asked about both orders");
    v("max-tokens", max_tokens, in_range(1, 1 << 20), "largest number of tokens of an answer");
    v("temperature", temperature, in_range(0, 20), "divides the logits; 0: always the most probable token");
    v("top-p", top_p, in_range(1e-6, 1), "draw from the most probable tokens that together reach this probability");
    v("batch-size", batch_size, in_range(1, 4096), "answers written at a time; changes no answer");
    v("plain-prompts", plain_prompts, any_value(), "prompts are texts to continue: the models' chat templates are not used");
    v("tie-margin", tie_margin, in_range(0, 100), "likelihood: a difference of at most this, in nats a token, is a tie");
    v("seconds", seconds, in_range(0.1, 3600), "verifier: wall-clock time of a program, and processor time of a process");
    v("judge-tokens", judge_tokens, in_range(1, 1 << 20), "openai-url: largest number of tokens that the judge may write");
    v("draws", draws, in_range(100, 1e6), "samples of the prompts for the intervals");
    v("seed", seed, seed_value(), "seed of answers and samples");
    call.visit(v);
  }
  /// Whether making it again would ask a server.
  bool asks_server() const { return judge == ArenaJudge::server; }
};

/// Slots: tasks, a file of prompts (verify/task.h), with verifiers where they judge; judge-model, a checkpoint for `likelihood` and an artifact of `connect` for
/// `openai-url`; command, optional, as in verify-samples. Every other slot is a model. Throws UsageError for fewer than two models or a judge that is missing,
/// MismatchError when tasks or models do not fit the judge, QualityError when the token budget is reached or no battle has a verdict; otherwise as Verifier::judge and
/// Caller::call. A server's answers are in a ledger next to the artifact, as those of `capture`: none is paid for twice.
StageReport run_arena(const ArenaConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
