#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/regex.h"

using namespace overproof;

namespace {

std::vector<RegexMatch> all_matches(const Regex& regex, std::string_view text, int64_t* work = nullptr) {
  RegexScan scan(regex, text);
  std::vector<RegexMatch> out;
  for (size_t from = 0; from <= text.size();) {
    const auto match = scan.next(from);
    if (!match) break;
    out.push_back(*match);
    from = match->end > match->begin ? match->end : match->end + 1;
  }
  if (work) *work = scan.work();
  return out;
}

Regex utf8(std::string_view pattern) { return Regex(pattern, Regex::Text::utf8, "tokenizer.json"); }

std::string repeated(std::string_view part, size_t times) {
  std::string text;
  while (times-- > 0) text += part;
  return text;
}

}  // namespace

TEST_CASE("a scan finds the matches from left to right, also beyond the window that each start has free") {
  CHECK(all_matches(utf8("a+|b"), "xaab") == std::vector<RegexMatch>{{1, 3}, {3, 4}});
  CHECK(all_matches(utf8("\\p{L}+"), "\xc3\xa9\xe4\xb8\xad 1") == std::vector<RegexMatch>{{0, 5}});
  CHECK(all_matches(utf8("x*$"), "axx") == std::vector<RegexMatch>{{1, 3}, {3, 3}});

  const std::string gap(10'000, '.'), word = repeated("\xc3\xa9", 20'000);
  // A match far from its search's start, one longer than a window, characters across every window's end.
  CHECK(all_matches(utf8("\\p{L}+"), gap + word + gap + "z") == std::vector<RegexMatch>{{10'000, 50'000}, {60'000, 60'001}});
  CHECK(all_matches(utf8("z"), word + "z") == std::vector<RegexMatch>{{40'000, 40'001}});
  CHECK(all_matches(utf8("y"), word).empty());
  // What a match looks at behind itself is not cut by a window, nor what it looks at before.
  CHECK(all_matches(utf8("\\s+(?!\\S)|\\s+"), std::string(9'000, ' ') + "x") ==
        std::vector<RegexMatch>{{0, 8'999}, {8'999, 9'000}});
  CHECK(all_matches(utf8("(?<=ab)c"), std::string(4'094, '.') + "abc") == std::vector<RegexMatch>{{4'096, 4'097}});
  CHECK(all_matches(utf8("\\.+$"), gap) == std::vector<RegexMatch>{{0, 10'000}});
  CHECK(all_matches(utf8("^z"), std::string(4'096, '.') + "z").empty());
  CHECK(all_matches(utf8("(?:\\.{5000}|\\.\\.)"), gap) == std::vector<RegexMatch>{{0, 5'000}, {5'000, 10'000}});
}

TEST_CASE("an expression that takes more than linear time on a text is given up, and one that does not is not") {
  const auto work_of = [](const char* pattern, const std::string& text) {
    int64_t work = 0;
    all_matches(utf8(pattern), text, &work);
    return work;
  };
  // Each start looks at all that follows; PCRE2's own limits count neither that nor across matches.
  for (const char* pattern : {"(?=a*b)a", "a*[bc]", "(?:(?=a*b)|a)", "a(?=(?:a|aa)*b)", "(?=.*z).", "(a?)*b"})
    CHECK_THROWS_WITH(all_matches(utf8(pattern), std::string(240'000, 'a')), Catch::Contains("given up"));
  CHECK_THROWS_WITH(all_matches(utf8("(a+)+$"), std::string(100, 'a') + "b"), Catch::Contains("given up"));

  // What tokenizers use: long runs cost a few times their length, and twice the text costs about twice.
  for (
      const char* pattern :
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
       R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}]+|\s*[\r\n]+|\s+(?!\S)|\s+)"})
    for (const char* part : {"A", " ", "word ", "1", "?!", "\n", "\xe4\xb8\xad"}) {
      CAPTURE(pattern, part);
      const std::string text = repeated(part, 200'000);
      const int64_t once = work_of(pattern, text), twice = work_of(pattern, text + text);
      CHECK(once <= 16 * int64_t(text.size()));
      CHECK(twice <= 4 * once + 100'000);
    }
}

TEST_CASE("an expression that would part a character, or is none, is refused") {
  CHECK_THROWS_WITH(utf8("\\C"), Catch::Contains("tokenizer.json") && Catch::Contains("\\C"));
  CHECK_THROWS_AS(utf8("(?:x|(\\C))"), FormatError);
  CHECK_THROWS_WITH(utf8("a("), Catch::Contains("not a valid regular expression"));
  CHECK_THROWS_AS(all_matches(utf8("(?=ab\\K)"), "abc"), FormatError);
}

TEST_CASE("a match at the start is found as Python's re.match does") {
  const Regex regex("model\\.layers\\.\\d+", Regex::Text::bytes, "config.json");
  CHECK(regex.matches_start("model.layers.12.mlp", 1'000));
  CHECK_FALSE(regex.matches_start("xmodel.layers.1", 1'000));
  CHECK_FALSE(Regex("(a+)+$", Regex::Text::bytes, "f").matches_start(std::string(60, 'a') + "b", 100'000));
}
