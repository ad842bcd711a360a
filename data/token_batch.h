#pragma once
// What one step of training reads: sequences of token ids, the weight of each token in the loss, and where each token is from.
//
// Batch root, version 1 (every weight is 1, one segment a sequence):
//   SHA-256("overproof batch v1" | of each sequence, in the order of the batch:
//     U64 number | SHA-256 of its length + 1 ids as I32 | 32 bytes: digest of the teacher's rows)
// Version 2 (anything else):
//   SHA-256("overproof batch v2" | of each sequence, in the order of the batch:
//     U64 number | SHA-256 of its length + 1 ids as I32 | SHA-256 of its weights as F32 | SHA-256 of its segments as I32 |
//     32 bytes: digest of the teacher's rows)
// Numbers are little-endian. The digest of the teacher's rows comes from the teacher's signal (teacher/signal.h); it is zeros
// where the teacher runs alongside the student. Sources are not part of the root: they follow from the corpus. Nor are rewards and advantages: they
// follow from the ids, and the loss of the step shows them.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "data/corpus.h"
#include "data/order.h"

namespace overproof {

/// `batch` sequences of `length` tokens, row by row. Token i of a sequence is an input, ids[i + 1] its label.
struct TokenBatch {
  int64_t batch = 0, length = 0;
  std::vector<int64_t> numbers;  ///< [batch] which sequence of its source: the number of the window
  std::vector<int64_t> ids;      ///< [batch, length + 1]
  std::vector<float> weight;     ///< [batch, length] weight of the token's loss; 0: not in the loss
  std::vector<int32_t> segment;  ///< [batch, length] tokens attend only to tokens of their own segment
  std::vector<int32_t> source;   ///< [batch, length] index into BatchSource::source_names()
  std::vector<float> reward;     ///< [batch] of what the student wrote, by its verifier; empty: nothing was judged
  std::vector<float> advantage;  ///< [batch, length] of a label that the student drew, from the rewards; empty: it drew none

  int64_t tokens() const { return batch * length; }
  std::span<const int64_t> sequence_ids(int64_t b) const {
    return std::span(ids).subspan(size_t(b * (length + 1)), size_t(length + 1));
  }
  /// The sequences [first, first + count) up to the last column in which one of them has a weight, at least one column. What comes behind has no
  /// part in the loss, and nothing before sees it.
  TokenBatch used_part(int64_t first, int64_t count) const;
  double total_weight() const;  ///< sum of all weights: tokens that count in the loss
  bool uniform() const;         ///< every weight is 1
  bool one_segment() const;     ///< every segment number is 0
  /// The batch root. `taught`: the digest of the teacher's rows of each sequence, [batch].
  Digest root(std::span<const Digest> taught) const;
};

/// The source of each token of a corpus, by number.
class TokenSources {
 public:
  explicit TokenSources(const Corpus& corpus);                      ///< which must outlive this
  const std::vector<std::string>& names() const { return names_; }  ///< ascending
  /// Of the window's inputs; out.size() is the window length.
  void read_window(Split split, int64_t window, std::span<int32_t> out) const;

 private:
  const Corpus& corpus_;
  std::vector<std::string> names_;
  std::vector<int32_t> source_of_;  // by document, in the order of corpus_.documents()
};

/// The batches of a training, by step.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual int64_t steps() const = 0;
  virtual int64_t step_tokens() const = 0;            ///< batch x length, the same in every step
  /// Whether at(step) follows from inputs and configuration. Else the student writes the batch, as it is before that step: at() gives the
  /// batch of the present weights.
  virtual bool follows(int64_t /*step*/) const { return true; }
  virtual double step_weight(int64_t step) const = 0;  ///< TokenBatch::total_weight() of at(step), where that follows
  virtual const std::vector<std::string>& source_names() const = 0;  ///< that TokenBatch::source counts in
  virtual TokenBatch at(int64_t step) const = 0;                     ///< step in [0, steps())
};

/// Which window is at a position of the order of training, from 0.
using WindowSequence = std::function<int64_t(int64_t position)>;
/// The committed order: epochs over the windows that were taught.
WindowSequence order_of(const TrainingOrder& order);
/// A keyed permutation of `windows` windows, repeated when it ends.
WindowSequence order_of(const Permutation& permutation, int64_t windows);

/// The segment of each input of a window, [window_length]: one for each document where the corpus keeps attention within documents, else
/// 0 for all.
void read_segments(const Corpus& corpus, Split split, int64_t window, std::span<int32_t> out);

/// Windows of one split of a corpus, `batch_size` a step. Weights are the corpus's mask of labels, 1 for every token where it has
/// none, times the weights of their documents.
/// Segments: read_segments().
class WindowBatches final : public BatchSource {
 public:
  WindowBatches(std::shared_ptr<const Corpus> corpus, Split split, WindowSequence order, int64_t batch_size, int64_t steps);
  int64_t steps() const override { return steps_; }
  int64_t step_tokens() const override { return batch_size_ * corpus_->window_length(); }
  double step_weight(int64_t step) const override;
  const std::vector<std::string>& source_names() const override { return sources_.names(); }
  TokenBatch at(int64_t step) const override;

 private:
  std::shared_ptr<const Corpus> corpus_;
  TokenSources sources_;
  Split split_;
  WindowSequence order_;
  int64_t batch_size_, steps_;
};

}  // namespace overproof
