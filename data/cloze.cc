#include "data/cloze.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/rng.h"
#include "data/corpus.h"

namespace overproof {
namespace {

constexpr size_t kLeastLetters = 4;
constexpr std::string_view kSpaces = " \t\n\v\f\r";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string lower_case(std::string_view word) {
  std::string lower(word);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return lower;
}

struct Word {
  size_t begin = 0, length = 0, before = 0;  ///< `before`: where the word before it ends; 0 for the first
};

/// The letters of a target, 0 for a word that is none.
size_t target_letters(std::string_view text, const Word& word) {
  const std::string_view bytes = text.substr(word.begin, word.length);
  size_t letters = 0;
  while (letters < bytes.size() && is_letter(bytes[letters])) ++letters;
  const bool ends = letters == bytes.size() || (letters + 1 == bytes.size() && std::string_view(".,;:!?").find(bytes[letters]) != std::string_view::npos);
  const bool one_space = word.before > 0 && word.begin == word.before + 1 && text[word.before] == ' ';
  return letters >= kLeastLetters && ends && one_space ? letters : 0;
}

void for_each_word(std::string_view text, const std::function<void(const Word&)>& visit) {
  size_t before = 0;
  for (size_t at = text.find_first_not_of(kSpaces); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kSpaces, at), text.size());
    visit({at, end - at, before});
    before = end;
    at = text.find_first_not_of(kSpaces, end);
  }
}

}  // namespace

std::vector<ClozePassage> cloze_passages(std::string_view text, int64_t words) {
  std::vector<ClozePassage> passages;
  ClozePassage open;
  int64_t count = 0;
  for_each_word(text, [&](const Word& word) {
    if (count == 0) open = {.stretch = open.stretch, .begin = word.begin};
    if (2 * count >= words)
      if (const size_t letters = target_letters(text, word); letters > 0)
        open.context_end = word.before, open.target = word.begin, open.length = letters;
    if (++count < words) return;
    if (open.length > 0) passages.push_back(open);
    ++open.stretch;
    count = 0;
  });
  return passages;
}

std::vector<std::string> cloze_targets(std::string_view text) {
  std::map<std::string, std::string> found;
  for_each_word(text, [&](const Word& word) {
    if (const size_t letters = target_letters(text, word); letters > 0) {
      const std::string_view target = text.substr(word.begin, letters);
      found.try_emplace(lower_case(target), target);
    }
  });
  std::vector<std::string> targets;
  for (auto& [lower, target] : found) targets.push_back(std::move(target));
  return targets;
}

std::vector<ChoiceQuestion> cloze_questions(const fs::path& corpus, const ClozeOptions& options) {
  const auto for_each_document = [&](const std::function<void(const Document&, std::string_view text, const std::vector<ClozePassage>&, std::vector<std::string>)>& visit) {
    for_each_stored_text(corpus, [&](const Document& document, const StoredText& stored) {
      throw_if_interrupted();
      if (document.split != Split::held_out || stored.marked) return true;
      const std::vector<ClozePassage> passages = cloze_passages(stored.text, options.words);
      std::vector<std::string> targets = passages.empty() ? std::vector<std::string>() : cloze_targets(stored.text);
      if (int64_t(targets.size()) > options.distractors) visit(document, stored.text, passages, std::move(targets));
      return true;
    });
  };
  int64_t available = 0;
  for_each_document([&](const Document&, std::string_view, const std::vector<ClozePassage>& passages, const std::vector<std::string>&) {
    available += int64_t(passages.size());
  });
  if (available == 0)
    throw MismatchError(fmt::format("{}: its held-out documents have no passage for a cloze question: {} words with a last word of four letters, and {} other "
                                    "such words in the document. Make the corpus with more held-out text, or set option 'cloze' to 0",
                                    corpus.string(), options.words, options.distractors));
  const int64_t count = std::min(available, options.questions);
  std::vector<ChoiceQuestion> questions;
  int64_t number = 0;
  for_each_document([&](const Document& document, std::string_view text, const std::vector<ClozePassage>& passages, std::vector<std::string> targets) {
    for (const ClozePassage& passage : passages) {
      const int64_t here = number++, next = int64_t(questions.size());
      if (next == count || here != int64_t((__int128(2 * next + 1) * available) / (2 * count))) continue;
      ChoiceQuestion question{.task = kClozeTask,
                              .name = fmt::format("{}#{}", document.name, passage.stretch),
                              .context = std::string(text.substr(passage.begin, passage.context_end - passage.begin))};
      const std::string target(text.substr(passage.target, passage.length)), lower = lower_case(target);
      std::vector<std::string> others;
      for (const std::string& word : targets)
        if (lower_case(word) != lower) others.push_back(word);
      Rng rng(uint64_t(options.seed), "evaluate/cloze", uint64_t(here));
      for (int64_t i = 0; i < options.distractors; ++i) {  // Fisher and Yates, as far as needed
        std::swap(others[size_t(i)], others[size_t(i) + size_t(rng.below(others.size() - uint64_t(i)))]);
        question.choices.push_back(others[size_t(i)]);
      }
      question.answer = int64_t(rng.below(uint64_t(options.distractors) + 1));
      question.choices.insert(question.choices.begin() + question.answer, target);
      questions.push_back(std::move(question));
    }
  });
  return questions;
}

}  // namespace overproof
