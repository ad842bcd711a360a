#pragma once
// A cloze task from the held-out documents of a corpus: which of a few words of the same document is the last one of a passage? As LAMBADA
// (Paperno et al. 2016) asks for the last word of a passage, with choices, so that small models are above nothing.
//
//   word        bytes without ASCII white space, as long as possible
//   target      a word of at least four ASCII letters, with at most one of . , ; : ! ? behind them, which is not part of it, and exactly one space before it
//   passage     a held-out document that is no conversation is cut into stretches of `words` words from its beginning, the rest is left out. A stretch
//               ends at its last target in its second half; where it has none, it gives no passage
//   context     from the first byte of the stretch to the last one of the word before the target
//   choices     the target, and `distractors` other targets of the document, different from it and from each other when case is ignored, drawn by the
//               seed; a document with fewer gives no passage. The place of the target is drawn, too. A choice has one space before it
//   questions   of all passages, in the order of the table, the middle ones of as many equal parts as were asked for
//
// The name of a question is "<document>#<stretch>".

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/choice_questions.h"

namespace overproof {

struct ClozeOptions {
  int64_t questions = 0, words = 48, distractors = 3, seed = 0;
};

/// A stretch of a text that ends in a target; offsets in bytes.
struct ClozePassage {
  int64_t stretch = 0;               ///< number in its document
  size_t begin = 0, context_end = 0;  ///< the context
  size_t target = 0, length = 0;      ///< the target's letters
};
/// All of a text, and its targets: each once when case is ignored, as it is spelled first, in ascending order of the lower-case letters.
std::vector<ClozePassage> cloze_passages(std::string_view text, int64_t words);
std::vector<std::string> cloze_targets(std::string_view text);

/// Reads the texts of the corpus twice, one in memory at a time. Throws MismatchError when it has no passage.
std::vector<ChoiceQuestion> cloze_questions(const fs::path& corpus, const ClozeOptions& options);

}  // namespace overproof
