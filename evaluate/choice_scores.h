#pragma once
// Multiple-choice questions scored by the likelihood of each choice, as lm-evaluation-harness scores them.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/choice_questions.h"
#include "model/decoder.h"
#include "records/evaluation.h"

namespace overproof {

/// What a model gives for the choices of one question.
struct ChoiceScore {
  std::vector<double> log_likelihoods;  ///< of each choice after the context: sum over its tokens, natural logarithm
  std::vector<bool> greedy;             ///< whether each token of the choice is the most probable one
};

/// A question in ids, [choices].
struct EncodedQuestion {
  std::vector<ChoiceIds> choices;
};
/// By choice_ids() of context and delimiter + choice. Throws MismatchError naming a question of which a choice has no token of its own.
std::vector<EncodedQuestion> encode_questions(const Tokenizer& tokenizer, bool add_begin, const std::vector<ChoiceQuestion>& questions);

/// `most`: largest number of ids that a model reads at once (max_position_embeddings); 0: any. Longer inputs lose ids at their beginning, as in
/// lm-evaluation-harness: of context + continuation the last `most` + 1 are kept. Throws MismatchError naming a question where a choice alone is
/// longer. Inputs that begin like a longer one share its pass. step(done) is called after each batch of inputs, with the number of questions' choices that are
/// scored.
std::vector<ChoiceScore> score_choices(const Decoder& model, const std::vector<ChoiceQuestion>& questions, const std::vector<EncodedQuestion>& encoded,
                                       int64_t batch, const std::function<void(int64_t done)>& step = {});

/// The index of the largest value; the first of equal ones.
int64_t largest(const std::vector<double>& values);
/// Index of the choice with the largest log-likelihood, and per byte of its UTF-8 text.
int64_t chosen(const ChoiceScore& score);
int64_t chosen_by_bytes(const ChoiceQuestion& question, const ChoiceScore& score);

/// Of each task, in the order in which tasks first occur.
std::vector<EvaluationTask> task_scores(const std::vector<ChoiceQuestion>& questions, const std::vector<ChoiceScore>& scores);

/// Lines of scores.jsonl (records/evaluation.h) of one model.
std::string score_lines(const std::string& model, const std::vector<ChoiceQuestion>& questions, const std::vector<ChoiceScore>& scores);

}  // namespace overproof
