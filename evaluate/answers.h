#pragma once
// What a model writes after prompts, and whether that is of use: does it go in circles, and is it what the teacher would write?

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/tokenizer.h"
#include "model/decoder.h"
#include "model/generator.h"

namespace overproof {

using Ids = std::vector<int32_t>;

inline constexpr int64_t kAnswerTokens = 64;

/// The most probable continuation of each prompt, at most kAnswerTokens ids without the end token; none where the model ends at once.
/// `repetition_penalty`: SamplingOptions.
/// An answer is the same alone and among others (model/ops/row_products.h).
std::vector<Ids> greedy_answers(const Generator& model, const Tokenizer& tokenizer, const std::vector<Ids>& prompts, double repetition_penalty = 1);

/// Whether some four ids in a row come up at least four times; occurrences may overlap.
bool has_loop(std::span<const int32_t> ids);
/// Share of the answers that have one. 0 without answers.
double loop_share(const std::vector<Ids>& answers);

/// Share of the ids of `answers` that are the model's most probable ones after the prompt and the ids before it. Nothing when all
/// answers are empty.
std::optional<double> answer_agreement(const Decoder& model, const std::vector<Ids>& prompts, const std::vector<Ids>& answers);

}  // namespace overproof
