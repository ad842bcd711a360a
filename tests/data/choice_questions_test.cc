#include "data/choice_questions.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "data/cloze.h"
#include "data/corpus_stage.h"
#include "data/gguf_vocabulary.h"
#include "tests/data/fixtures.h"
#include "tests/support.h"

using namespace overproof;

namespace {

ChoiceQuestion read(std::string_view text) { return read_choice_question(text, "questions.jsonl", 40, 7); }

ChoiceIds ids(const BpeTokenizer& tokenizer, std::string_view context, std::string_view continuation, bool add_begin = false) {
  return choice_ids(tokenizer, context, continuation, add_begin);
}

}  // namespace

TEST_CASE("a question is read with what it leaves out") {
  const ChoiceQuestion q = read(R"({"context": "A", "choices": ["x", "y"], "answer": 1, "more": {}})");
  CHECK(q.context == "A");
  CHECK(q.delimiter == " ");
  CHECK(q.task == "questions");
  CHECK(q.name == "question-7");
  CHECK(q.answer == 1);
  const ChoiceQuestion named = read(R"({"context": "", "choices": ["x", "y", "é"], "answer": "é", "task": "t", "name": "n", "delimiter": ""})");
  CHECK(named.answer == 2);
  CHECK(named.delimiter.empty());
  CHECK(named.task == "t");
  CHECK(named.name == "n");
}

TEST_CASE("a question that cannot be scored is refused, with the place and the member") {
  for (const char* text :
       {"", "3", "[]", "{}", R"({"context": "a", "choices": ["x", "y"]})", R"({"choices": ["x", "y"], "answer": 0})", R"({"context": "a", "answer": 0})",
        R"({"context": "a", "choices": [], "answer": 0})", R"({"context": "a", "choices": ["x"], "answer": 0})",
        R"({"context": "a", "choices": ["x", "x"], "answer": 0})", R"({"context": "a", "choices": ["x", ""], "answer": 0})",
        R"({"context": "a", "choices": ["x", 3], "answer": 0})", R"({"context": "a", "choices": ["x", "y"], "answer": 2})",
        R"({"context": "a", "choices": ["x", "y"], "answer": -1})", R"({"context": "a", "choices": ["x", "y"], "answer": 0.5})",
        R"({"context": "a", "choices": ["x", "y"], "answer": "z"})", R"({"context": "a", "choices": ["x", "y"], "answer": null})",
        R"({"context": 3, "choices": ["x", "y"], "answer": 0})", R"({"context": "a", "choices": "xy", "answer": 0})",
        R"({"context": "a", "choices": ["x", "y"], "answer": 0, "task": "cloze"})", R"({"context": "a", "choices": ["x", "y"], "answer": 0, "task": ""})",
        R"({"context": "a", "choices": ["x", "y"], "answer": 0, "name": "two\nlines"})", R"({"context": "a", "choices": ["x", "y"], "answer": 0, "delimiter": 1})"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(read(text), FormatError);
  }
  CHECK_THROWS_WITH(read(R"({"context": "a", "choices": ["x", "y"], "answer": "z"})"),
                    Catch::Contains("questions.jsonl") && Catch::Contains("40") && Catch::Contains("'answer' is none of the choices"));
  std::string many = R"({"context": "a", "answer": 0, "choices": ["0")";
  for (size_t i = 1; i <= kMostChoices; ++i) many += ",\"" + std::to_string(i) + "\"";
  CHECK_THROWS_WITH(read(many + "]}"), Catch::Contains("it takes 2 to 256"));

  const TempFolder folder;
  const fs::path file = folder.path() / "q.jsonl";
  write_file_atomically(file, "\n  \n");
  CHECK_THROWS_WITH(read_choice_questions(file), Catch::Contains("has no question"));
  const std::string line = R"({"context": "a", "choices": ["x", "y"], "answer": 0, "name": "n"})";
  write_file_atomically(file, line + "\n" + line + "\n");
  CHECK_THROWS_WITH(read_choice_questions(file), Catch::Contains("line 2: two questions are called 'n'"));
  write_file_atomically(file, "\xef\xbb\xbf" + line + "\r\n\n" + R"({"context": "b", "choices": ["x", "y"], "answer": 0})");
  const auto both = read_choice_questions(file);
  REQUIRE(both.size() == 2);
  CHECK(both[1].name == "question-3");
}

TEST_CASE("context and continuation are cut as lm-evaluation-harness cuts them") {
  const BpeTokenizer tokenizer(small_bpe({{"Ġ", "a"}, {"b", "c"}}), "test");
  const int32_t space_a = 256, bc = 257, begin = 258;
  CHECK(ids(tokenizer, "b", " a").continuation == std::vector<int32_t>{space_a});
  CHECK(ids(tokenizer, "b", " a").context == std::vector<int32_t>{'b'});
  // White space at the end of the context goes to the continuation.
  CHECK(ids(tokenizer, "b ", "a").context == std::vector<int32_t>{'b'});
  CHECK(ids(tokenizer, "b ", "a").continuation == std::vector<int32_t>{space_a});
  CHECK(ids(tokenizer, "b\xe2\x80\x83\n", "a").context == std::vector<int32_t>{'b'});  // an em space
  CHECK(ids(tokenizer, "b\x1f", "a").context == std::vector<int32_t>{'b'});             // as Python's isspace()
  CHECK(ids(tokenizer, "b\x80", "a").context.size() > 1);                               // ill-formed: no white space
  // A token over the border: the continuation is what is behind as many ids as the context alone has.
  const ChoiceIds joined = ids(tokenizer, "b", "ca");
  CHECK(joined.context == std::vector<int32_t>{'b'});
  CHECK(joined.continuation == std::vector<int32_t>{'a'});
  CHECK(ids(tokenizer, "b", "c").continuation.empty());
  CHECK(ids(tokenizer, "ab", "c").continuation.empty());
  (void)bc;
  // An empty context is the beginning-of-text token.
  CHECK(ids(tokenizer, "", "a").context == std::vector<int32_t>{begin});
  CHECK(ids(tokenizer, "", "a").continuation == std::vector<int32_t>{'a'});
  CHECK(ids(tokenizer, "", "<|endoftext|>a").continuation == std::vector<int32_t>{'a'});
  // Special tokens are read as such; with add_begin none comes twice.
  CHECK(ids(tokenizer, "<tool>", " a").context == std::vector<int32_t>{begin + 1});
  CHECK(ids(tokenizer, "b", " a", true).context == std::vector<int32_t>{begin, 'b'});
  CHECK(ids(tokenizer, "b", " a", true).continuation == std::vector<int32_t>{space_a});
  CHECK(ids(tokenizer, "<|endoftext|>b", " a", true).context == std::vector<int32_t>{begin, 'b'});
  auto without = small_bpe({});
  without.bos = without.eos = -1;
  CHECK_THROWS_AS(ids(BpeTokenizer(without, "test"), "", "a"), MismatchError);
}

TEST_CASE("whether a tokenizer adds the beginning-of-text token is read from its files") {
  const TempFolder folder;
  const BpeTokenizer tokenizer(small_bpe({}), "test");
  const auto adds = [&](const char* post, const char* config) {
    write_file_atomically(folder.path() / "tokenizer.json", std::string(R"({"post_processor": )") + post + "}");
    write_file_atomically(folder.path() / "tokenizer_config.json", config);
    return adds_begin_token(folder.path(), tokenizer);
  };
  const char* with_template = R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {"id": "A"}}]})";
  CHECK(adds(with_template, "{}"));
  CHECK_FALSE(adds(R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]})", "{}"));
  CHECK_FALSE(adds(R"({"type": "ByteLevel"})", R"({"add_bos_token": true})"));
  CHECK(adds("null", R"({"add_bos_token": true})"));
  CHECK_FALSE(adds("null", "{}"));
}

TEST_CASE("a cloze passage ends at a last word, and its wrong choices are words of the same document") {
  const std::string text = "One two three four river. Here are more words, and some boats end";
  // Targets: four ASCII letters or more, one space before, at most one mark behind.
  CHECK(cloze_targets(text) == std::vector<std::string>{"boats", "four", "Here", "more", "river", "some", "three", "words"});
  CHECK(cloze_targets("Word word  double\nline so-called don't café, \"quoted\" ends... stops!") == std::vector<std::string>{"stops", "word"});
  const auto passages = cloze_passages(text, 6);
  REQUIRE(passages.size() == 2);
  CHECK(text.substr(passages[0].begin, passages[0].context_end - passages[0].begin) == "One two three four river.");
  CHECK(text.substr(passages[0].target, passages[0].length) == "Here");
  CHECK(passages[0].stretch == 0);
  CHECK(text.substr(passages[1].begin, passages[1].context_end - passages[1].begin) == "are more words, and some");
  CHECK(text.substr(passages[1].target, passages[1].length) == "boats");
  CHECK(cloze_passages("a b c d e f", 6).empty());
  CHECK(cloze_passages("word here too is a one", 6).empty());  // the last target is in the first half
  CHECK(cloze_passages(text, 100).empty());
  CHECK(cloze_passages("", 6).empty());
}
