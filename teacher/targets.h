#pragma once
// What a teacher outputs for the rows of a batch, in the form that losses take. One teacher or a mixture of several.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "data/token_alignment.h"
#include "model/decoder.h"

namespace overproof {

/// What targets contain of the teacher's distribution, and so which losses can use them.
enum class TargetKind {
  whole,    ///< all of it
  sampled,  ///< an estimate of it without bias: good for losses that are linear in the teacher's probabilities
  top_k,    ///< the probabilities of the likeliest ids, and of all others together
  aligned,  ///< all of it, over the ids of another tokenizer
};
inline std::string_view target_kind_text(TargetKind kind) {
  static constexpr std::string_view kTexts[] = {"a whole distribution", "sampled", "top-k", "of another tokenizer"};
  return kTexts[size_t(kind)];
}

/// Teacher probabilities of some ids a row, in CSR form: row r has entries [offsets[r], offsets[r + 1]).
struct SparseRows {
  std::vector<int64_t> offsets = {0};  ///< [rows + 1]
  std::vector<int32_t> ids;            ///< ascending in a row
  std::vector<float> probabilities;    ///< at the signal's temperature
  std::vector<float> tail;             ///< [rows] probability of all other ids together; 0: the row is complete
  int64_t rows() const { return int64_t(tail.size()); }
};

/// weight x softmax(z / temperature), z = hidden head^T, capped, made by the loss in chunks.
struct DenseStates {
  at::Tensor hidden;  ///< F32 [rows, hidden of the teacher]
  at::Tensor head;    ///< F32 [vocabulary, hidden of the teacher]
  double weight = 1;  ///< share in the mixture
  double cap = 0;     ///< of the logits (ModelConfig::logit_cap)
};

/// What a teacher of another tokenizer computes on the same text.
struct AlignedStates {
  at::Tensor hidden;            ///< F32 [rows of the teacher, hidden of the teacher]
  at::Tensor head;              ///< F32 [its vocabulary, hidden of the teacher]
  double cap = 0;               ///< of the logits (ModelConfig::logit_cap)
  std::vector<int64_t> labels;  ///< [rows of the teacher] the id that follows
  /// Rows whose labels spell the same after the same text: a of the student, b of the teacher. Ascending; no row is in two.
  std::vector<TokenSpan> spans;
  /// Ids that spell the same, (student's, teacher's).
  std::shared_ptr<const std::vector<std::pair<int32_t, int32_t>>> common;
};

/// The teacher's distribution in each row: the sum of all parts.
struct Targets {
  TargetKind kind = TargetKind::whole;
  SparseRows sparse;                ///< without rows where no part is sparse
  std::vector<DenseStates> states;  ///< empty where all parts are sparse
  std::vector<LayerStates> layers;  ///< of the teacher; empty unless TeacherSignal::keep_layers
  std::vector<int64_t> rows = {};   ///< which rows of the batch these are, ascending; empty: all
  std::optional<AlignedStates> aligned = {};  ///< instead of the others
};

}  // namespace overproof
