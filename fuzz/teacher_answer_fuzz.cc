// Answers of servers. The first byte chooses: 0 .. 4 a dialect with ids, 5 .. 9 the same with names and one off, 10 an error's text, 11 a
// ledger of answers, whose records' digests are put right, 12 a ledger as it is, 13 the answer of a chat completion.

#include <cmath>

#include "core/error.h"
#include "formats/teacher_answer.h"
#include "fuzz/fuzz_file.h"
#include "records/answer_ledger.h"
#include "records/row_encoding.h"

using namespace overproof;

namespace {

constexpr int64_t kVocab = 12;
const std::vector<int32_t> kPrompt = {1, 2, 3, 4};
const Digest kTeacher = sha256(std::string_view("teacher"));

void answer(uint8_t kind, std::string_view body) {
  static const TokenNames names({"a", "b", "c", "d", "e", "f", "ab", "\xc3", "\xc3\xa9", "a", "g\xe2", "<end>"}, {11});
  const AnswerShape shape{.dialect = Dialect(kind % 5), .prompt = kPrompt, .top = 3, .vocab_size = kVocab, .shifted = kind >= 5, .names = kind >= 5 ? &names : nullptr};
  const TeacherAnswer read = parse_teacher_answer(body, shape, "fuzz");
  fuzz::require(read.rows.size() == (scores_prompts(shape.dialect) ? kPrompt.size() - 1 : 1));
  for (const AnsweredRow& row : read.rows) {
    double mass = 0;
    fuzz::require(row.ids.size() == row.logs.size() && int64_t(row.ids.size()) <= shape.top);
    for (size_t i = 0; i < row.ids.size(); ++i) {
      fuzz::require(row.ids[i] >= 0 && row.ids[i] < kVocab && (i == 0 || row.ids[i] > row.ids[i - 1]));
      fuzz::require(std::isfinite(row.logs[i]) && row.logs[i] <= 0);
      mass += std::exp(double(row.logs[i]));
    }
    fuzz::require(mass <= 1.02);
    std::vector<uint8_t> entries;
    fuzz::require(encode_log_probabilities(row.ids, row.logs, entries) * 5 == int64_t(entries.size()));
  }
}

void ledger(std::string_view text, bool mend) {
  std::string bytes = "OVPANSW1" + std::string(reinterpret_cast<const char*>(kTeacher.bytes.data()), 32);
  if (!mend) bytes += text;
  // As many records as lengths and bytes give.
  for (size_t at = 0; mend && text.size() - at >= 37;) {
    const auto byte = [&](size_t i) { return size_t(uint8_t(text[at + i])); };
    const size_t payload = std::min(byte(33) | byte(34) << 8, text.size() - at - 37);
    std::string record(text.substr(at, 33));
    record += {char(payload), char(payload >> 8), 0, 0};
    record += text.substr(at + 37, payload);
    const Digest digest = sha256(record);
    bytes += record + std::string(reinterpret_cast<const char*>(digest.bytes.data()), 32);
    at += 37 + payload;
  }
  const std::span span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const LedgerState state = read_ledger(span, kTeacher, "fuzz");
  fuzz::require(state.bytes <= int64_t(bytes.size()) && state.tokens >= 0 && state.maybe_paid() >= 0);
  for (const auto& [request, place] : state.answered) {
    const LedgerAnswer kept = read_ledger_answer(span.subspan(size_t(place.offset), size_t(place.bytes)), "fuzz", place.offset, place.text);
    fuzz::require(kept.tokens >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] < 10) answer(data[0], rest);
    else if (data[0] == 10) fuzz::require(server_error_text(rest).size() <= 900);
    else if (data[0] == 11) ledger(rest, true);
    else if (data[0] == 12) ledger(rest, false);
    else if (data[0] == 13) fuzz::require(parse_chat_answer(rest, "fuzz").text.size() <= rest.size());
  } catch (const FormatError&) {
  }
  return 0;
}
