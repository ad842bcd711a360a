#pragma once
// Which requests give the soft targets of a corpus's windows.

#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/order.h"
#include "data/tokenizer.h"
#include "records/answer_ledger.h"
#include "remote/remote_teacher.h"

namespace overproof {

/// One request and the rows of its block that it gives.
struct CaptureRequest {
  int64_t block = 0, first_row = 0, rows = 0;
  std::vector<int32_t> ids;  ///< the prompt
  std::string text;          ///< of it, where the teacher takes text
};

struct CaptureCount {
  int64_t requests = 0, tokens = 0;            ///< all of them, as estimated
  int64_t open_requests = 0, open_tokens = 0;  ///< without an answer in the ledger
  int64_t rows = 0, asked_rows = 0;            ///< of all blocks; those that a request gives
};

class CapturePlan {
 public:
  /// Everything must outlive the plan.
  CapturePlan(const RemoteTeacher& teacher, const Tokenizer& tokenizer, const Corpus& corpus, const TrainingOrder& order);
  int64_t blocks() const { return order_.taught(); }
  /// The requests of one block, in order. Of a corpus with attention within documents, each document's part of a window is a prompt of its own.
  /// Rows that have no weight in the loss are not asked for where each row is a request; nor are prompts that no text has, where
  /// the teacher takes text.
  std::vector<CaptureRequest> requests(int64_t block) const;
  /// `state`: of the ledger; nullptr: there is none.
  CaptureCount count(const LedgerState* state) const;

 private:
  void add(std::vector<CaptureRequest>& list, int64_t block, int64_t first, std::span<const int32_t> ids, std::span<const float> weight) const;
  bool add_prompt(std::vector<CaptureRequest>& list, CaptureRequest request) const;

  const RemoteTeacher& teacher_;
  const Tokenizer& tokenizer_;
  const Corpus& corpus_;
  const TrainingOrder& order_;
};

/// Windows that `tokens` allow, at most all. Throws MismatchError when there is none.
int64_t capture_blocks(const Corpus& corpus, int64_t tokens);

/// The file of the answers of a teacher, in the folder for what belongs to no artifact.
fs::path ledger_file(const fs::path& kept, const Digest& teacher);

}  // namespace overproof
