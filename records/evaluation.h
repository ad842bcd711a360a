#pragma once
// evaluation.json: how far models are from their teacher on held-out text, as `evaluate` measured it.
//
//   {"tokens": 4096, "windows": 8,
//    "models": [{"name": "teacher", "perplexity": 12.5, "kl_mean": 0.0, "kl_p99": 0.0, "top1_agreement": 1.0, "bytes": 538000000,
//                "parameters": 134515008, "active_parameters": 134515008, "ffn_activation": 1.0, "parameter_activation": 1.0,
//                "bytes_per_token": 538000000, "loops": 0.1, "loops_penalised": 0.0, "answer_agreement": 1.0,
//                "texts": [{"name": "other", "tokens": 3000, "perplexity": 11.5, "kl_mean": 0.0, "top1_agreement": 1.0}, ...]}, ...],
//    "prompts": 20, "repetition_penalty": 1.1}
//
// and of each model, where they were measured: "calibration_error": 0.02, "tasks": [{"name": "cloze", "questions": 100, "acc": 0.5, "acc_stderr": 0.05,
// "acc_norm": 0.5, "acc_norm_stderr": 0.05, "greedy": 0.1}, ...].
//
// The teacher is first, the others follow by their divergence from it.
//
//   name                  slot of the model
//   perplexity            exp of the mean cross-entropy with the text
//   kl_mean, kl_p99       KL(teacher || model), nats per token: mean, and 99th percentile over tokens (nearest rank)
//   top1_agreement        fraction of positions where the most probable token is the teacher's
//   bytes                 of the weight files
//   parameters            of the model; active_parameters: those that one token uses
//   ffn_activation        fraction of FFN neurons that one token uses
//   parameter_activation  active_parameters / parameters
//   bytes_per_token       of the weight files, that one token needs (evaluate/weight_reads.h)
//   loops                 of the model's answers to `prompts` fixed prompts, the share that go in circles (evaluate/answers.h)
//   loops_penalised       the same of answers with `repetition_penalty` (data/sampler.h)
//   answer_agreement      share of the ids of the teacher's answers that are the model's most probable ones
//   calibration_error     expected calibration error of the next token: over 15 bins of the largest probability, equally wide, the sum of share of tokens x
//                         |share of tokens that were the most probable one - mean largest probability| (Guo et al. 2017)
//   tasks                 multiple-choice questions by task (evaluate/choice_scores.h): acc is the share of questions whose right choice has the largest
//                         log-likelihood, acc_norm the largest one per byte of its text; ..._stderr the standard error of that mean, left out of a single
//                         question; greedy the share whose right choice is what the model writes when it takes the most probable token each time
//   texts                 the first measurements for each kind of held-out text; left out when there is one kind
//
// With questions, scores.jsonl is next to it: one line for each model and question, {"model", "task", "name", "answer", "log_likelihoods", "greedy", "choice",
// "choice_by_bytes"}; what is not a name is an index into the question's choices, or a value for each of them.

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"

namespace overproof {

inline constexpr const char* kEvaluationFile = "evaluation.json";
inline constexpr const char* kScoresFile = "scores.jsonl";

/// Of one kind of held-out text.
struct EvaluationText {
  std::string name;
  std::optional<int64_t> tokens;
  std::optional<double> perplexity, kl_mean, top1_agreement;
};

/// Of the multiple-choice questions of one task.
struct EvaluationTask {
  std::string name;
  std::optional<int64_t> questions;
  std::optional<double> acc, acc_stderr, acc_norm, acc_norm_stderr, greedy;
};

struct EvaluationRow {
  std::string name;
  std::optional<double> perplexity, kl_mean, kl_p99, top1_agreement, ffn_activation, parameter_activation;
  std::optional<int64_t> bytes, parameters, active_parameters, bytes_per_token;
  std::optional<double> loops, loops_penalised, answer_agreement;
  std::vector<EvaluationText> texts;
  std::optional<double> calibration_error = {};
  std::vector<EvaluationTask> tasks = {};
};

/// A measurement of a row by its name in the file.
struct EvaluationMetric {
  const char* name;
  std::optional<double> EvaluationRow::*value;
};
inline constexpr std::array<EvaluationMetric, 10> kEvaluationMetrics = {{{"perplexity", &EvaluationRow::perplexity},
                                                                        {"kl_mean", &EvaluationRow::kl_mean},
                                                                        {"kl_p99", &EvaluationRow::kl_p99},
                                                                        {"top1_agreement", &EvaluationRow::top1_agreement},
                                                                        {"ffn_activation", &EvaluationRow::ffn_activation},
                                                                        {"parameter_activation", &EvaluationRow::parameter_activation},
                                                                        {"loops", &EvaluationRow::loops},
                                                                        {"loops_penalised", &EvaluationRow::loops_penalised},
                                                                        {"answer_agreement", &EvaluationRow::answer_agreement},
                                                                        {"calibration_error", &EvaluationRow::calibration_error}}};

struct Evaluation {
  std::optional<int64_t> tokens, windows;
  std::vector<EvaluationRow> rows;
  std::optional<int64_t> prompts;  ///< behind the answers
  std::optional<double> repetition_penalty = {};
};

/// What is absent is left out.
Json to_json(const Evaluation& evaluation);

/// Reads the file's text. A measurement that is missing or null (JSON's form of a NaN) is absent. Throws FormatError naming `origin` and
/// the member when "models" or a name is missing, or a member has another type.
Evaluation parse_evaluation(std::string_view text, const fs::path& origin);

}  // namespace overproof
