#include "data/cloze.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <ranges>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// The table and texts of a corpus: what cloze_questions() reads of one.
void write_texts(const fs::path& folder, const std::vector<std::pair<std::string, std::string>>& texts, const std::string& split = "held_out") {
  fs::create_directories(folder / "texts");
  std::string table, lines;
  for (const auto& [name, text] : texts) {
    table += Json{{"digest", sha256(text).hex()}, {"name", name}, {"source", "s"}, {"license", "CC0-1.0"}, {"license_rule", "given"},
                  {"bytes", text.size()}, {"split", split}, {"first_token", 0}, {"tokens", 1}}.dump() + "\n";
    lines += Json{{"name", name}, {"digest", sha256(text).hex()}, {"text", text}}.dump() + "\n";
  }
  write_file_atomically(folder / "documents.jsonl", table);
  write_file_atomically(folder / texts_file_name("s"), lines);
}

std::string lower(std::string word) {
  std::ranges::transform(word, word.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return word;
}

}  // namespace

TEST_CASE("cloze questions are spread over the held-out documents and follow the seed") {
  const TempFolder folder;
  std::string words;
  for (int i = 0; i < 400; ++i) words += (i % 3 == 0 ? "of " : "") + std::string("Word") + char('a' + i % 26) + char('a' + i / 26) + " ";
  std::vector<std::pair<std::string, std::string>> texts = {{"long", words}, {"poor", "only this word repeated word word word word word word word word word"}};
  write_texts(folder.path(), texts);
  const auto all = cloze_questions(folder.path(), {.questions = 1000, .words = 10, .distractors = 3});
  REQUIRE(all.size() > 20);
  std::set<std::string> names;
  std::set<int64_t> places;
  for (const ChoiceQuestion& q : all) {
    CHECK(q.task == kClozeTask);
    CHECK(q.name.starts_with("long#"));  // the other document has too few words to choose from
    CHECK(names.insert(q.name).second);
    places.insert(q.answer);
    REQUIRE(q.choices.size() == 4);
    std::set<std::string> different;
    for (const std::string& choice : q.choices) {
      CHECK(different.insert(lower(choice)).second);
      CHECK(words.find(" " + choice + " ") != std::string::npos);
    }
    CHECK(words.find(q.context + " " + q.choices[size_t(q.answer)]) != std::string::npos);
    CHECK_FALSE(q.context.ends_with(' '));
  }
  CHECK(places.size() == 4);
  const auto some = cloze_questions(folder.path(), {.questions = 4, .words = 10, .distractors = 3});
  REQUIRE(some.size() == 4);
  for (size_t i = 0; i < 4; ++i) CHECK(some[i].name == all[(2 * i + 1) * all.size() / 8].name);
  // The draw is that of the passage, whatever the number of questions; another seed draws others.
  CHECK(some[1].choices == all[3 * all.size() / 8].choices);
  const auto other = cloze_questions(folder.path(), {.questions = 1000, .words = 10, .distractors = 3, .seed = 1});
  REQUIRE(other.size() == all.size());
  bool another = false;
  for (size_t i = 0; i < all.size(); ++i) another = another || other[i].choices != all[i].choices;
  CHECK(another);
}

TEST_CASE("a corpus without a passage, or with training documents only, has no cloze task") {
  const TempFolder folder;
  write_texts(folder.path(), {{"a", "too short"}});
  CHECK_THROWS_AS(cloze_questions(folder.path(), {.questions = 4}), MismatchError);
  std::string words;
  for (int i = 0; i < 100; ++i) words += std::string("some") + char('a' + i % 26) + " ";
  write_texts(folder.path(), {{"a", words}}, "train");
  CHECK_THROWS_AS(cloze_questions(folder.path(), {.questions = 4}), MismatchError);
}
