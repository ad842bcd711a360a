#pragma once
// What a teacher outputs for the rows of a batch, in the form that losses take. One teacher or a mixture of several.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/decoder.h"

namespace overproof {

/// What targets contain of the teacher's distribution, and so which losses can use them.
enum class TargetKind {
  whole,    ///< all of it
  sampled,  ///< an estimate of it without bias: good for losses that are linear in the teacher's probabilities
  top_k,    ///< the probabilities of the likeliest ids, and of all others together
};
inline std::string_view target_kind_text(TargetKind kind) {
  return kind == TargetKind::whole ? "a whole distribution" : kind == TargetKind::sampled ? "sampled" : "top-k";
}

/// Teacher probabilities of some ids a row, in CSR form: row r has entries [offsets[r], offsets[r + 1]).
struct SparseRows {
  std::vector<int64_t> offsets = {0};  ///< [rows + 1]
  std::vector<int32_t> ids;            ///< ascending in a row
  std::vector<float> probabilities;    ///< at the signal's temperature
  std::vector<float> tail;             ///< [rows] probability of all other ids together; 0: the row is complete
  int64_t rows() const { return int64_t(tail.size()); }
};

/// weight x softmax(hidden head^T / temperature), made by the loss in chunks.
struct DenseStates {
  at::Tensor hidden;  ///< F32 [rows, hidden of the teacher]
  at::Tensor head;    ///< F32 [vocabulary, hidden of the teacher]
  double weight = 1;  ///< share in the mixture
};

/// The teacher's distribution in each row: the sum of all parts.
struct Targets {
  TargetKind kind = TargetKind::whole;
  SparseRows sparse;                ///< without rows where no part is sparse
  std::vector<DenseStates> states;  ///< empty where all parts are sparse
  std::vector<LayerStates> layers;  ///< of the teacher; empty unless TeacherSignal::keep_layers
};

}  // namespace overproof
