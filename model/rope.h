#pragma once
// Inside model/: the angles of rotary position embeddings, of every type that transformers 5.23 has (modeling_rope_utils.py).

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "formats/layer_features.h"
#include "model/ops/rotary.h"
#include "model/placement.h"

namespace overproof {

/// Radians per position of each pair of a head of `head_dim` values, [head_dim / 2], in a text of `length` tokens, which only types with
/// by_length() depend on. Computed in f32 as transformers does; 0 for pairs that do not turn.
at::Tensor inverse_frequencies(const RopeShape& shape, int64_t head_dim, int64_t length, const Placement& placement);

class Rope {
 public:
  Rope() = default;
  Rope(RopeShape shape, int64_t head_dim, const Placement& placement);

  bool by_length() const { return shape_.by_length(); }
  /// Of positions first, first + 1, ... of a text that has `length` tokens so far; [count, head_dim / 2] each. transformers keeps the
  /// frequencies of the longest text that a model has seen; here they depend on this text alone.
  ops::RotaryAngles angles(int64_t first, int64_t count, int64_t length) const;

 private:
  RopeShape shape_;
  int64_t head_dim_ = 0;
  Placement placement_;
  at::Tensor frequencies_;  // undefined for types with by_length()
  at::Tensor scale_;        // of cosines and sines, [head_dim / 2]; undefined: 1
};

}  // namespace overproof
