#pragma once
// Answers of a teacher behind a URL, on the disk before they count: what was paid for is never asked for again.
//
//   header    "OVPANSW1" | 32 bytes: root of the teacher's artifact
//   records   one after another, in the order of time:
//     U8 kind | 32 bytes: digest of the request | U32 bytes of the payload | payload | SHA-256 of the record so far
//     1 sent      U32 tokens that the request is estimated to cost. Written before it is sent
//     2 answered  U32 tokens that it cost | U32 entries without an id | U16 rows | U8 lengths[rows] | entries (records/row_encoding.h, top-k)
//     3 refused   empty: the server did the work of none of it (429, 503, ...)
//     4 answered  U32 tokens that it cost | text that the server wrote
//
// Numbers are little-endian. Appended only. An answer is on the disk (fdatasync) before add_answer() returns. A last record that is
// torn was being written when the program was killed, and is cut off; any other damage is a FormatError, because dropping answers
// would mean to pay for them again. A request that was sent and has neither answer nor refusal may have been paid: `maybe_paid`.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/file.h"
#include "records/batch_spool.h"

namespace overproof {

struct LedgerAnswer {
  int64_t tokens = 0;   ///< paid
  int64_t unnamed = 0;  ///< entries whose text named no id
  EncodedRows rows;     ///< of kind top-k
  /// Of a request that asked for a text: what the server wrote. Then there are no rows.
  std::optional<std::string> text = {};
};

/// The sum of a ledger's records.
struct LedgerState {
  int64_t bytes = 0;  ///< of the whole records; what follows is torn
  struct Place {
    int64_t offset, bytes;  ///< of the payload
    bool text = false;      ///< of kind 4
  };
  std::map<Digest, Place> answered;
  std::map<Digest, int64_t> open;  ///< sent without answer or refusal: estimated tokens, of all tries together
  int64_t tokens = 0;              ///< paid
  int64_t maybe_paid() const;      ///< tokens
};

/// Reads all records. `file` is for messages. Throws FormatError.
LedgerState read_ledger(std::span<const uint8_t> bytes, const Digest& teacher, const fs::path& file);
/// Reads the payload of an answer, with `text` of kind 4. Throws FormatError.
LedgerAnswer read_ledger_answer(std::span<const uint8_t> payload, const fs::path& file, int64_t offset, bool text = false);

/// A ledger that is being written. One process at a time has it; its members may be called by several threads.
class AnswerLedger {
 public:
  /// Opens or makes it. Throws FormatError, IoError also when another process has it.
  AnswerLedger(const fs::path& file, const Digest& teacher);
  ~AnswerLedger();
  AnswerLedger(const AnswerLedger&) = delete;
  AnswerLedger& operator=(const AnswerLedger&) = delete;

  bool has(const Digest& request) const;
  void note_sent(const Digest& request, int64_t tokens);
  void note_refused(const Digest& request);
  void add_answer(const Digest& request, const LedgerAnswer& answer);
  /// Of a request that has one.
  LedgerAnswer answer(const Digest& request) const;
  int64_t tokens() const;      ///< paid, of all answers here
  int64_t maybe_paid() const;  ///< tokens of requests without an answer

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace overproof
