// Mathematical answers (expected, zero byte, given) and completions: any bytes have a verdict, never an error, and no answer is a wrong one of
// itself.

#include "fuzz/fuzz_file.h"
#include "verify/math_answer.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), std::min<size_t>(size, 6'000));
  const std::string expected(fuzz::take_part(rest)), given(rest);
  const Judgement judged = compare_answers(expected, given, 0);
  fuzz::require(judged.answer.size() <= 200);
  fuzz::require(compare_answers(given, given, 0).verdict != TaskVerdict::wrong);
  for (const AnswerPlace place : {AnswerPlace::any, AnswerPlace::boxed, AnswerPlace::phrase, AnswerPlace::last})
    for (const bool choice : {false, true})
      if (const auto found = find_answer(given, place, choice)) fuzz::require(found->size() <= given.size() + 1);
  return 0;
}
