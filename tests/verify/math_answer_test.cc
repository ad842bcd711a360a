#include "verify/math_answer.h"

#include <catch2/catch.hpp>
#include <map>
#include <tuple>

#include "core/json.h"
#include "tests/support.h"

using namespace overproof;

namespace {

std::vector<Json> lines_of(const char* name) {
  const fs::path file = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/math_answers" / name;
  const std::string text = read_file(file);
  std::vector<Json> all;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    all.push_back(parse_json(std::string_view(text).substr(at, end - at), file, int64_t(at)));
    at = end + 1;
  }
  return all;
}

TaskVerdict compared(std::string_view expected, std::string_view answer, double tolerance = 0) {
  return compare_answers(expected, answer, tolerance).verdict;
}

std::string found(std::string_view completion, AnswerPlace place = AnswerPlace::any, bool choice = false) {
  return find_answer(completion, place, choice).value_or("<none>");
}

}  // namespace

TEST_CASE("answers are judged as math-verify judges them, or as the table of differences explains") {
  std::map<std::pair<std::string, std::string>, std::string> differences;
  for (const Json& row : lines_of("differences.jsonl")) {
    CHECK_FALSE(row["why"].get<std::string>().empty());
    differences[{row["expected"], row["given"]}] = row["verdict"];
  }
  const auto rows = lines_of("answers.jsonl");
  CHECK(rows.size() >= 300);
  size_t different = 0;
  for (const Json& row : rows) {
    const std::string expected = row["expected"], given = row["given"];
    const Json& peer = row["math_verify"];
    const std::string theirs = peer.is_null() ? "unknown" : peer.get<bool>() ? "correct" : "wrong";
    const auto ours = std::string(verdict_name(compared(expected, given)));
    INFO(expected << " | " << given << ": math-verify " << theirs << ", here " << ours);
    // Never the opposite where the peer says correct: what is not decided is unknown.
    CHECK_FALSE((theirs == "correct" && ours == "wrong"));
    if (const auto known = differences.find({expected, given}); known != differences.end()) {
      CHECK(ours == known->second);
      CHECK(ours != theirs);
      ++different;
    } else {
      CHECK(ours == theirs);
    }
  }
  CHECK(different == differences.size());
}

TEST_CASE("an answer is found in a box, behind its phrase, or as the last number") {
  CHECK(found("so \\boxed{12} and \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}");
  CHECK(found("\\boxed{7", AnswerPlace::boxed) == "<none>");
  CHECK(found("\\boxed{7} then \\boxed{8") == "7");
  CHECK(found("It is 3. The answer is 5. I am sure, 99 %.") == "5");
  CHECK(found("**Answer:** 4.5 apples\nwell") == "4.5 apples");
  CHECK(found("Answer: $\\frac{1}{2}$.") == "\\frac{1}{2}");
  CHECK(found("steps 1 2\n#### 1,234") == "1,234");
  CHECK(found("3 + 4 = 7.") == "7");
  CHECK(found("17 - 8 = 9.\n\nSo, 17 - 8 = 9.") == "9");
  CHECK(found("it falls to -3 degrees") == "-3");
  CHECK(found("7-3") == "3");
  CHECK(found("7 - 3") == "3");
  CHECK(found("one half is 1/2") == "1/2");
  CHECK(found("it is 1,234.5 or so") == "1,234.5");
  CHECK(found("3, 4") == "4");
  CHECK(found("about 12.5%") == "12.5%");
  CHECK(found("no number") == "<none>");
  CHECK(found("") == "<none>");
  CHECK(found("7", AnswerPlace::phrase) == "<none>");
  CHECK(found("the answer is 3 </think> I say 4") == "4");
  CHECK(found("so it is (B), not (C). The answer is (B) because A", AnswerPlace::any, true) == "(B) because A");
  CHECK(compared("B", "(B) because A") == TaskVerdict::correct);
  CHECK(found("I choose C", AnswerPlace::last, true) == "C");
  CHECK(found("A car is better than D", AnswerPlace::last, true) == "D");
}

TEST_CASE("numbers are compared exactly") {
  using enum TaskVerdict;
  CHECK(compared("12345678901234567890123", "12345678901234567890123") == correct);
  CHECK(compared("12345678901234567890123", "12345678901234567890124") == wrong);
  CHECK(compared("\\frac{1}{23}", "\\frac{12}{3}") == wrong);
  CHECK(compared("\\sqrt{50}-\\sqrt{18}", "2\\sqrt{2}") == correct);
  CHECK(compared("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}") == unknown);  // equal, but not decided here
  CHECK(compared("\\frac{1}{\\sqrt{2}+\\sqrt{3}}", "\\sqrt{3}-\\sqrt{2}") == correct);
  CHECK(compared("3.14", "22/7", 0.01) == correct);
  CHECK(compared("3.14", "3.3", 0.01) == wrong);
  CHECK(compared("0", "0.005", 0.01) == correct);
  CHECK(compared("1/3", "0.3333333") == correct);
  CHECK(compared("1/3", "0.3") == unknown);
  CHECK(compared("1/3", "0.4") == wrong);
  CHECK(compared("1/0", "2") == unknown);
  CHECK(compared("2", "1/0") == unknown);
  CHECK(compared("0^0", "1") == unknown);
  CHECK(compared("9^{9^{9^9}}", "1") == unknown);
  CHECK(compared("10^{100}", "1") == wrong);
  CHECK(compared("10^{1000000}", "1") == unknown);
  CHECK(compared("(1,200)", "(1,200)") == correct);
  CHECK(compared("(1,200)", "(1, 200)") == correct);
  CHECK(compared("(1200, 5)", "(1,200, 5)") == correct);
  CHECK(compared("3.5", "3,5") == unknown);
  CHECK(compared("yes", "No.") == wrong);
  CHECK(compared("even", "odd") == unknown);
  CHECK(compared("", "5") == unknown);
  CHECK(compared("5", "") == unknown);
  CHECK(compared("60 minutes", "1 hour") == unknown);
  CHECK(compared("60 minutes", "1") == unknown);
  CHECK(compared("12", "15 apples") == wrong);
}

TEST_CASE("hostile answers take time in proportion to their length") {
  for (const char* piece : {"(", "{", "[", "\\frac{", "\\sqrt{", "^{", "-", "\\boxed{", "$", "\\text{", "1,000,", "x+", "(x+1)", "2^9^", "\\pm", "|", "!"}) {
    const auto make = [&](size_t size) {
      std::string text;
      while (text.size() < size) text += piece;
      return text;
    };
    CAPTURE(piece);
    CHECK(growth_of_time(make, [](const std::string& text) { compare_answers(text, "5"); }, 1'000, 4'000) < 40);
    CHECK(growth_of_time(make, [](const std::string& text) { find_answer(text, AnswerPlace::any, false); }, 20'000, 320'000) < 60);
  }
  std::string nested = "\\{1,2\\}";
  for (int i = 3; i < 12; ++i) nested = "\\{" + nested + ", \\{" + std::to_string(i) + ", " + nested + "\\}\\}";
  CHECK(growth_of_time([&](size_t size) { return nested.substr(0, size); }, [](const std::string& text) { compare_answers(text + "1", text + "2"); }, 1'000, 4'000) < 100);
  CHECK(compared(std::string(1 << 20, '1'), std::string(1 << 20, '1')) == TaskVerdict::correct);
}
