#include "records/answer_ledger.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/temp_folder.h"
#include "records/row_encoding.h"

using namespace overproof;

namespace {

const Digest kTeacher = sha256(std::string_view("teacher")), kA = sha256(std::string_view("a")), kB = sha256(std::string_view("b"));

LedgerAnswer some_answer() {
  LedgerAnswer answer{.tokens = 67, .unnamed = 3};
  for (const std::vector<int32_t>& ids : {std::vector<int32_t>{1, 5}, {}, {7}}) {
    const std::vector<float> logs(ids.size(), -1.5f);
    answer.rows.lengths.push_back(uint8_t(encode_log_probabilities(ids, logs, answer.rows.entries)));
  }
  return answer;
}

}  // namespace

TEST_CASE("a ledger keeps answers, and what may have been paid without one") {
  const TempFolder folder;
  const fs::path file = folder / "checkpoints/a.ledger";
  const LedgerAnswer answer = some_answer();
  {
    AnswerLedger ledger(file, kTeacher);
    ledger.note_sent(kA, 70);
    ledger.note_sent(kB, 50);
    ledger.note_sent(kB, 50);
    CHECK(ledger.maybe_paid() == 170);
    ledger.add_answer(kA, answer);
    CHECK(ledger.maybe_paid() == 100);
    CHECK(ledger.tokens() == 67);
    CHECK_THROWS_AS(AnswerLedger(file, kTeacher), IoError);  // another has it
  }
  AnswerLedger ledger(file, kTeacher);
  CHECK(ledger.has(kA));
  CHECK_FALSE(ledger.has(kB));
  CHECK(ledger.tokens() == 67);
  CHECK(ledger.maybe_paid() == 100);
  const LedgerAnswer read = ledger.answer(kA);
  CHECK(read.rows.lengths == std::vector<uint8_t>{2, 0, 1});
  CHECK(read.rows.entries == answer.rows.entries);
  CHECK(read.unnamed == 3);
  ledger.note_refused(kB);
  CHECK(ledger.maybe_paid() == 0);
}

TEST_CASE("a ledger keeps texts next to rows, each by the kind of its request") {
  const TempFolder folder;
  const fs::path file = folder / "a.ledger";
  {
    AnswerLedger ledger(file, kTeacher);
    ledger.note_sent(kA, 70);
    ledger.add_text(kA, {12, false, "caf\xc3\xa9\n"});
    ledger.add_answer(kB, some_answer());
    CHECK(ledger.maybe_paid() == 0);
  }
  AnswerLedger ledger(file, kTeacher);
  CHECK(ledger.tokens() == 12 + 67);
  const LedgerText text = ledger.text(kA);
  CHECK(text.text == "caf\xc3\xa9\n");
  CHECK(text.tokens == 12);
  CHECK_FALSE(text.whole);
  CHECK_THROWS_AS(ledger.answer(kA), FormatError);
  CHECK_THROWS_AS(ledger.text(kB), FormatError);
  const std::vector<uint8_t> not_utf8 = {1, 0, 0, 0, 1, 'a', 0xff}, no_flag = {1, 0, 0, 0, 2}, too_short = {1, 0, 0, 0};
  for (const auto* payload : {&not_utf8, &no_flag, &too_short}) CHECK_THROWS_AS(read_ledger_text(*payload, file, 0), FormatError);
}

TEST_CASE("a ledger that was cut off anywhere loses its last record only; one that was changed is refused") {
  const TempFolder folder;
  const fs::path file = folder / "a.ledger";
  int64_t before = 0;
  {
    AnswerLedger ledger(file, kTeacher);
    ledger.add_answer(kA, some_answer());
    before = int64_t(fs::file_size(file));
    ledger.add_answer(kB, some_answer());
  }
  const std::string whole = read_file(file);
  for (size_t n = 0; n <= whole.size(); ++n) {
    write_file_atomically(file, whole.substr(0, n));
    AnswerLedger ledger(file, kTeacher);
    CHECK(ledger.has(kA) == (int64_t(n) >= before));
    CHECK(ledger.has(kB) == (n == whole.size()));
    ledger.note_sent(kB, 1);  // what follows a torn record is read again
    CHECK(ledger.maybe_paid() == (n == whole.size() ? 1 : 1));
  }
  int64_t refused = 0;
  for (size_t i = 40; i < size_t(before); ++i) {
    std::string damaged = whole;
    damaged[i] = char(damaged[i] ^ 4);
    write_file_atomically(file, damaged);
    try {
      const AnswerLedger ledger(file, kTeacher);
      CHECK_FALSE(ledger.has(kA));  // a length that reaches beyond the file is a torn record
    } catch (const FormatError&) {
      ++refused;
    }
  }
  CHECK(refused > int64_t(before) - 40 - 8);
  write_file_atomically(file, whole);
  CHECK_THROWS_AS(AnswerLedger(file, kA), FormatError);  // another teacher's
  write_file_atomically(file, whole + std::string(100, '\0'));
  CHECK(AnswerLedger(file, kTeacher).has(kB));
}
