#pragma once
// The equivalence certificate: with all experts active and a zero gate, the carved student computes the same function as its
// teacher. It shows that no neuron was lost or changed. It does not show that the student as saved equals the teacher: its fitted
// gate gives the experts weights that are not exactly 1, and only top_k experts are active. Where their weights sum to 1 (qwen2_moe) and top_k is
// folded into their output projections (formats/student_profile.h), these are multiplied by experts / top_k for the comparison.

#include <ATen/core/Tensor.h>

#include <functional>

#include "core/json_fwd.h"
#include "model/layer_stream.h"

namespace overproof {

inline constexpr double kEquivalenceBound = 1e-4;

struct Certificate {
  int64_t tokens = 0;
  double largest_difference = 0;  ///< of any logit
  double largest_logit = 0;       ///< of the teacher, in absolute value
  DType dtype = DType::f32;       ///< to which the weights of both were rounded before
  bool as_it_is = false;          ///< of the student's own gate and number of active experts
  double routed_factor = 1.0;     ///< of the routed experts' output projections in the comparison
  /// |difference| <= kEquivalenceBound x max(1, largest_logit): f32 rounding grows with the logits.
  bool holds() const;
  Json to_json() const;
};

/// What a student stores of down [hidden, ff] of a layer, over the factors that it is stored with.
using RoundedDown = std::function<at::Tensor(const at::Tensor& down, int64_t layer)>;

/// Compares the f32 logits of both on `windows` (I64 [windows, length]) with all of the student's routed experts active and its gate and bias
/// zero. `dtype`: of the student's weights; the teacher's are rounded to it, down_proj by `rounded_down` where it is given. Layer by layer: in memory are one layer of each, their residual streams and the
/// heads.
Certificate certify_equivalence(LayerStream& teacher, LayerStream& student, const at::Tensor& windows, DType dtype,
                                const RoundedDown& rounded_down = {});

/// The same of the student as it is: its own gate, its own number of active experts. Upcycling is exact in this sense.
Certificate certify_same_logits(const Decoder& teacher, const Decoder& student, const at::Tensor& windows);

}  // namespace overproof
