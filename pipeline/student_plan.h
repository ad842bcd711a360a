#pragma once
// `overproof plan`: which students of a dense model reach an activation and a size, what they cost, and what a budget of tokens pays for. It reads
// config.json and no weight.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "formats/model_config.h"

namespace overproof {

struct PlanConfig {
  std::filesystem::path model;
  double target_activation = 0.055;
  std::string active_params, tokens;
  enum class Weights { bf16, int8, f32 } weights = Weights::bf16;
  double bandwidth = 0;
  int64_t most = 8;
  template <class V>
  void visit(V&& v) {
    v("model", model, any_value(), "a dense model: a checkpoint folder or a .gguf file");
    v("target-activation", target_activation, in_range(1e-4, 1), "active share of all parameters to reach");
    v("active-params", active_params, any_value(), "most active parameters, such as 50M; empty: any number");
    v("tokens", tokens, any_value(), "tokens that there are for training, such as 2M; empty: budgets are not judged");
    v("weights", weights, enum_of<Weights>({{"bf16", Weights::bf16}, {"int8", Weights::int8}, {"f32", Weights::f32}}),
      "type of the weights, for memory and speed");
    v("bandwidth", bandwidth, in_range(0, 1e5), "memory bandwidth in GB/s; 0: measured here, in a tenth of a second");
    v("most", most, in_range(1, 100), "most ways to list of each kind");
  }
};

/// One way to a student.
struct PlannedStudent {
  enum class Kind { carve, upcycle, shrink_upcycle } kind = Kind::carve;
  ModelConfig shape;  ///< of the student
  int64_t parent_layers = 0, copies = 1, split = 1;
  std::vector<std::string> commands;  ///< options of the stages
  double active_fraction() const { return double(shape.active_parameters()) / double(shape.parameters()); }
};

/// Ways to have at most `target` of all parameters active and at most `active` parameters. Carved ones that come nearest where none reaches
/// it. The best first: those that reach it with the fewest parameters.
std::vector<PlannedStudent> plan_students(const ModelConfig& dense, double target, double active, int64_t most);

/// What a student costs.
struct StudentCost {
  int64_t parameters = 0, active = 0;
  double memory_bytes = 0;      ///< of the weights
  double flops = 0;             ///< a token: 2 x the weights that a token is multiplied with; without attention over earlier tokens
  double read_bytes = 0;        ///< a token that is written alone reads these weights
  double decode_tokens = 0;     ///< a second: bandwidth / read_bytes, an upper bound
};
StudentCost cost_of(const ModelConfig& shape, double bytes_per_weight, double bandwidth);

/// Tokens below which a step of making a student is not paid for, and why.
struct TokenNeed {
  std::string step, rule;
  double tokens = 0;
};
/// recover: each routed expert is a regression with as many unknowns a column as it has neurons, so it needs as many tokens that are sent to it.
/// upcycle: 20 tokens for each weight that it adds (the ratio of Hoffmann et al. 2022, arXiv 2203.15556, for weights that are trained from nothing;
/// that copies need as much to become different experts is an assumption). shrink: 20 tokens for each weight that is kept, over the 40-fold
/// saving that Minitron (arXiv 2407.14679) measured against training from nothing.
std::vector<TokenNeed> token_needs(const PlannedStudent& student, const ModelConfig& dense);

/// "50M", "1.5B", "20k" or a plain number. Throws UsageError naming `option`.
double parse_count(const std::string& text, const char* option);

/// Bytes a second that all threads read from memory, measured on 256 MiB for about a tenth of a second.
double measure_bandwidth();

Answer run_plan(const PlanConfig& config);

}  // namespace overproof
