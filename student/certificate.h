#pragma once
// The equivalence certificate: the carved student with all experts active and a zero gate computes what the teacher does.

#include <ATen/core/Tensor.h>

#include "core/json_fwd.h"
#include "model/decoder.h"

namespace overproof {

inline constexpr double kEquivalenceBound = 1e-4;

struct Certificate {
  int64_t tokens = 0;
  double largest_difference = 0;  ///< of any logit
  double largest_logit = 0;       ///< of the teacher, in absolute value
  /// The bound is absolute for logits up to 1 and relative to the largest logit beyond: f32 rounding grows with it.
  bool holds() const;
  Json to_json() const;
};

/// Compares the logits of both on `windows` (I64 [windows, length]). The student's gate and bias are zero during the
/// comparison and restored after it.
Certificate certify_equivalence(const Decoder& teacher, Decoder& student, const at::Tensor& windows);

}  // namespace overproof
