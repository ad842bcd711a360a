#pragma once
// The targets that a teacher gives for a batch (targets.h). Signals differ in where targets come from: rows stored by `teach`
// (stored.cc), a decoder that runs alongside the student (live.cc), a mixture of signals (mixed.cc), or signals that are each
// responsible for some documents (routed.cc), or a decoder of another tokenizer (aligned.cc).

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "data/document_routes.h"
#include "data/order.h"
#include "data/token_batch.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "records/evidence.h"
#include "records/soft_targets.h"
#include "teacher/targets.h"

namespace overproof {

class TeacherSignal {
 public:
  virtual ~TeacherSignal() = default;
  /// Ids that every teacher of the signal has; of another tokenizer: any number.
  virtual int64_t vocab_size() const = 0;
  /// Divides the logits of teacher and student alike.
  virtual double temperature() const = 0;
  /// Of all targets that rows() returns; where they differ, the kind that fewest losses take.
  virtual TargetKind kind() const = 0;
  /// All kinds among the targets that rows() returns.
  virtual std::vector<TargetKind> kinds() const { return {kind()}; }
  /// From now on rows() has the states of the teacher's layers too. Returns its width and number of layers; zeros where the signal has no
  /// such states.
  struct Layers {
    int64_t width = 0, count = 0;
  };
  virtual Layers keep_layers() { return {}; }
  /// Targets of the sequences [first, first + count) of the batch, count x length rows: one for all rows, or where teachers are
  /// responsible for some rows each, one for each teacher, with its rows (Targets::rows); no row is in two of them. Throws FormatError
  /// where stored rows are damaged.
  virtual std::vector<Targets> rows(const TokenBatch& batch, int64_t first, int64_t count) const = 0;
  /// Digest of the rows of each sequence, [batch], for TokenBatch::root; zeros where they follow from the teacher's weights,
  /// which have a digest of their own.
  virtual std::vector<Digest> digests(const TokenBatch& batch) const = 0;
  /// Whether an auditor can compute the targets again. What is trained on the signal records it in its metrics.
  virtual Evidence evidence() const = 0;
};

/// Soft targets on disk. `windows`: training windows of the corpus. The batch's numbers are those windows.
std::unique_ptr<TeacherSignal> stored_signal(std::shared_ptr<const SoftTargets> targets, int64_t windows);

/// A decoder that computes the targets of each batch.
std::unique_ptr<TeacherSignal> live_signal(std::shared_ptr<const Decoder> teacher, double temperature = 1.0);

/// A decoder whose tokenizer is another than the student's: it reads the same text in its own tokens. At temperature 1.
std::unique_ptr<TeacherSignal> aligned_signal(std::shared_ptr<const Decoder> teacher, std::shared_ptr<const Tokenizer> its_tokenizer,
                                              std::shared_ptr<const Tokenizer> of_student);

using WeightedSignal = std::pair<double, std::unique_ptr<TeacherSignal>>;

/// The weighted mean of the distributions of several signals: of probabilities, not of logits. Weights are divided by their sum.
/// Vocabularies of different sizes are one tokenizer's, of which the larger is padding (Training). Throws MismatchError when
/// temperatures differ, or when one of several signals is of top-k targets, whose ids differ from teacher to teacher.
std::unique_ptr<TeacherSignal> mixed_signal(std::vector<WeightedSignal> parts);

/// Each row by the teacher of its label's document: parts[i] for the documents that `routes` numbers i. A teacher computes or reads
/// only sequences in which it is responsible for a row. Throws MismatchError when temperatures differ.
std::unique_ptr<TeacherSignal> routed_signal(std::shared_ptr<const DocumentRoutes> routes, Split split,
                                             std::vector<std::unique_ptr<TeacherSignal>> parts);

/// SHA-256 over the digests of several signals for one sequence, in order; zeros where all are.
Digest joined_digest(std::span<const Digest> of_parts);

/// The input ids of the sequences [first, first + count), I64 [count, length].
at::Tensor input_ids(const TokenBatch& batch, int64_t first, int64_t count);
/// Their segments, I32 [count, length], for ForwardOptions; undefined when every sequence of the batch is one segment.
at::Tensor input_segments(const TokenBatch& batch, int64_t first, int64_t count);

}  // namespace overproof
