#pragma once
// The `evaluate` stage: the divergence of each model from its teacher on documents that neither training nor calibration used.

#include <cstdint>

#include "core/config.h"
#include "core/stage.h"
#include "data/cloze.h"
#include "evaluate/prompts.h"
#include "model/compute.h"

namespace overproof {

struct EvaluateConfig {
  int64_t tokens = 4096;
  int64_t batch = 4;
  Compute compute = Compute::automatic;
  int64_t prompts = kPrompts;
  double repetition_penalty = 1.1;
  ClozeOptions cloze;

  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, in_range(1, 1e9), "held-out tokens, in windows spread evenly over the held-out stream");
    v("batch", batch, in_range(1, 4096), "windows in one forward pass");
    visit_compute(v, compute);
    v("prompts", prompts, in_range(0, double(kPrompts)),
      "fixed prompts to which each model writes 64 tokens: do they go in circles, are they the teacher's? 0: none");
    v("repetition-penalty", repetition_penalty, in_range(0.01, 100),
      "the prompts are answered once more with this penalty on tokens that the text already has (`generate --help`); 1: not once more");
    v("cloze", cloze.questions, in_range(0, 1e6), "questions about the last word of a passage of held-out text (docs/evaluate.md); 0: none");
    v("cloze-words", cloze.words, in_range(4, 10000), "words of a passage, the last one at most");
    v("cloze-distractors", cloze.distractors, in_range(1, double(kMostChoices - 1)), "wrong choices, words of the same document");
    v("cloze-seed", cloze.seed, seed_value(), "draws the wrong choices");
  }
};

/// Slots "teacher" and "corpus"; "questions", optional: a file of multiple-choice questions (data/choice_questions.h); every other slot is a model,
/// and its name is the name of its row.
///
/// Writes evaluation.json (records/evaluation.h), the teacher first, the others by their divergence from it, and with questions scores.jsonl.
///   kl         KL(teacher || model), nats per token; p99 is the 99th percentile over tokens (nearest rank)
///   top1       fraction of positions where the most probable token is the teacher's
///   bytes      of the weight files on disk
///   activation fraction of FFN neurons, and of all parameters, that one token touches
///   bytes_per_token   of the weight files, that one token needs
///   loops             share of the model's answers to the prompts with four ids in a row that come up at least four times
///   loops_penalised   the same of answers with `repetition-penalty`
///   answer_agreement  share of the ids of the teacher's answers that are the model's most probable ones
///   texts             of each kind of held-out text: a source of the corpus where there are at most four, else what each teacher
///                     sampled and "other"; left out when there is one kind
///   tasks             of each task of "questions", and of the cloze questions that are made from held-out text (data/cloze.h)
/// Speed depends on the machine and its load, so no file of the artifact contains it: tokens/s of the forward pass (prefill) and
/// of one sequence that is written token by token (decode) are in the summary's table only. The forward pass has its weights in f32;
/// a token is written with weights as they are stored (model/generator.h).
///
/// Memory: the teacher and one model in f32, one model as it is stored, the teacher's final hidden states [tokens, hidden], and one chunk of logits. Throws
/// MismatchError when the corpus was made with another tokenizer, has no held-out window, or a model's vocabulary differs from the
/// teacher's; DivergenceError when logits are not finite.
StageReport run_evaluate(const EvaluateConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
