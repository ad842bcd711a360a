#pragma once
// The targets that a teacher gives for a batch, in one of two forms that losses take. Signals differ in where targets come from:
// rows stored by `teach` (stored.cc), or a decoder that runs alongside the student (live.cc).

#include <ATen/core/Tensor.h>

#include <memory>
#include <variant>
#include <vector>

#include "core/digest.h"
#include "data/order.h"
#include "data/token_batch.h"
#include "model/decoder.h"
#include "records/evidence.h"
#include "records/soft_targets.h"

namespace overproof {

/// Teacher probabilities of some ids a row, in CSR form: row r has entries [offsets[r], offsets[r + 1]).
struct SparseRows {
  std::vector<int64_t> offsets = {0};  ///< [rows + 1]
  std::vector<int32_t> ids;            ///< ascending in a row
  std::vector<float> probabilities;    ///< at the signal's temperature
  std::vector<float> tail;             ///< [rows] probability of all other ids together; 0: the row is complete
  int64_t rows() const { return int64_t(tail.size()); }
};

/// The teacher's whole distribution: softmax(hidden head^T / temperature), made by the loss in chunks.
struct DenseStates {
  at::Tensor hidden;  ///< F32 [rows, hidden of the teacher]
  at::Tensor head;    ///< F32 [vocabulary, hidden of the teacher]
};

using Targets = std::variant<SparseRows, DenseStates>;

class TeacherSignal {
 public:
  virtual ~TeacherSignal() = default;
  virtual int64_t vocab_size() const = 0;
  /// Divides the logits of teacher and student alike.
  virtual double temperature() const = 0;
  /// Targets of the sequences [first, first + count) of the batch: count x length rows. Throws FormatError where stored rows are
  /// damaged.
  virtual Targets rows(const TokenBatch& batch, int64_t first, int64_t count) const = 0;
  /// Digest of the rows of each sequence, [batch], for TokenBatch::root; zeros where they follow from the teacher's weights,
  /// which have a digest of their own.
  virtual std::vector<Digest> digests(const TokenBatch& batch) const = 0;
  /// Whether an auditor can compute the targets again. What is trained on the signal records it in its metrics.
  virtual Evidence evidence() const = 0;
};

/// Soft targets on disk. `windows`: training windows of the corpus. The batch's numbers are those windows.
std::unique_ptr<TeacherSignal> stored_signal(std::shared_ptr<const SoftTargets> targets, int64_t windows);

/// A decoder that computes the targets of each batch, at temperature 1.
std::unique_ptr<TeacherSignal> live_signal(std::shared_ptr<const Decoder> teacher);

/// The input ids of the sequences [first, first + count), I64 [count, length].
at::Tensor input_ids(const TokenBatch& batch, int64_t first, int64_t count);

}  // namespace overproof
