#pragma once
// evaluation.json: how far models are from their teacher on held-out text, as `evaluate` measured it.
//
//   {"tokens": 4096, "windows": 8,
//    "models": [{"name": "teacher", "perplexity": 12.5, "kl_mean": 0.0, "kl_p99": 0.0, "top1_agreement": 1.0, "bytes": 538000000,
//                "parameters": 134515008, "active_parameters": 134515008, "ffn_activation": 1.0, "parameter_activation": 1.0}, ...]}
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

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"

namespace overproof {

inline constexpr const char* kEvaluationFile = "evaluation.json";

struct EvaluationRow {
  std::string name;
  std::optional<double> perplexity, kl_mean, kl_p99, top1_agreement, ffn_activation, parameter_activation;
  std::optional<int64_t> bytes, parameters, active_parameters;
};

/// A measurement of a row by its name in the file.
struct EvaluationMetric {
  const char* name;
  std::optional<double> EvaluationRow::*value;
};
inline constexpr std::array<EvaluationMetric, 6> kEvaluationMetrics = {{{"perplexity", &EvaluationRow::perplexity},
                                                                        {"kl_mean", &EvaluationRow::kl_mean},
                                                                        {"kl_p99", &EvaluationRow::kl_p99},
                                                                        {"top1_agreement", &EvaluationRow::top1_agreement},
                                                                        {"ffn_activation", &EvaluationRow::ffn_activation},
                                                                        {"parameter_activation", &EvaluationRow::parameter_activation}}};

struct Evaluation {
  std::optional<int64_t> tokens, windows;
  std::vector<EvaluationRow> rows;
};

/// What is absent is left out.
Json to_json(const Evaluation& evaluation);

/// Reads the file's text. A measurement that is missing or null (JSON's form of a NaN) is absent. Throws FormatError naming `origin` and
/// the member when "models" or a name is missing, or a member has another type.
Evaluation parse_evaluation(std::string_view text, const fs::path& origin);

}  // namespace overproof
