#include "student/certificate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/interrupt.h"
#include "core/json.h"
#include "formats/student_profile.h"

namespace overproof {

bool Certificate::holds() const {
  return std::isfinite(largest_difference) && largest_difference <= kEquivalenceBound * std::max(1.0, largest_logit);
}

Json Certificate::to_json() const {
  std::string claim = as_it_is ? "the student's f32 logits equal the teacher's within the bound"
                      : routed_factor == 1.0
                          ? "with all experts active and a zero gate, the student's f32 logits equal the teacher's within the bound"
                          : fmt::format("with all experts active, a zero gate and down_proj of the routed experts times {:.6g}, the student's f32 "
                                        "logits equal the teacher's within the bound",
                                        routed_factor);
  if (dtype != DType::f32)
    claim += fmt::format("; the teacher's weights are rounded to {} as the student's are", dtype_name(dtype));
  return {{"claim", claim},
          {"tokens", tokens},
          {"largest_difference", largest_difference},
          {"largest_logit", largest_logit},
          {"bound", kEquivalenceBound},
          {"within_absolute_bound", largest_difference <= kEquivalenceBound},
          {"holds", holds()}};
}

namespace {

/// Adds `count` rows of logits to what is compared; expected(first, rows) and given(first, rows) compute a few at a time.
template <class Expected, class Given>
void compare_logits(const Expected& expected, const Given& given, int64_t count, Certificate& certificate) {
  constexpr int64_t kRows = 64;  // rows of logits in memory at a time
  for (int64_t first = 0; first < count; first += kRows) {
    throw_if_interrupted();
    const int64_t rows = std::min(kRows, count - first);
    const at::Tensor theirs = expected(first, rows), difference = given(first, rows).sub_(theirs);
    // max() of a NaN is NaN, and std::fmax would drop it
    const double d = difference.abs().max().item<double>(), m = theirs.abs().max().item<double>();
    if (!(d <= certificate.largest_difference)) certificate.largest_difference = d;
    if (!(m <= certificate.largest_logit)) certificate.largest_logit = m;
  }
  certificate.tokens += count;
}

}  // namespace

Certificate certify_equivalence(LayerStream& teacher, LayerStream& student, const at::Tensor& windows, DType dtype, const RoundedDown& rounded_down) {
  at::NoGradGuard no_grad;
  const auto as_written = [&](const at::Tensor& t) { return dtype == DType::f32 ? t : t.to(scalar_type_of(dtype)).to(at::kFloat); };
  at::Tensor theirs = as_written(teacher.embed(windows)), ours = student.embed(windows);
  const int64_t length = windows.size(1);
  ForwardOptions all;
  all.top_k = student.config().n_routed_experts;
  // All weights are then 1 / experts where they sum to 1.
  const double factor = student.config().norm_topk_prob ? double(all.top_k) / folded_factors(student.config()).routed : 1.0;
  for (int64_t l = 0; l < student.config().layers; ++l) {
    const Decoder &dense = teacher.at(l), &sparse = student.at(l);
    for (const StoredTensor& t : stored_layer(dense.layers()[size_t(l)], l))
      t.target.copy_(rounded_down && t.name.ends_with(".mlp.down_proj.weight") ? rounded_down(t.target, l) : as_written(t.target));
    const LayerWeights& carved = sparse.layers()[size_t(l)];
    carved.router.zero_();
    if (carved.router_bias.defined()) carved.router_bias.zero_();
    if (factor != 1.0) carved.expert_down.mul_(factor);
    for (int64_t first = 0; first < theirs.size(0); first += length) {
      throw_if_interrupted();
      const at::Tensor x = theirs.narrow(0, first, length), y = ours.narrow(0, first, length);
      x.copy_(dense.ffn_residual(l, dense.attention_block(l, x, 1)));
      y.copy_(sparse.ffn_residual(l, sparse.attention_block(l, y, 1), all));
    }
  }
  teacher.clear();
  student.clear();
  Certificate certificate;
  certificate.dtype = dtype;
  certificate.routed_factor = factor;
  const at::Tensor norm = teacher.ends().weights().final_norm, stored = norm.clone();
  norm.copy_(as_written(norm));
  const at::Tensor expected_states = teacher.ends().last_norm(theirs);
  norm.copy_(stored);
  const at::Tensor states = student.ends().last_norm(ours), teacher_head = as_written(teacher.head()), student_head = student.head();
  compare_logits([&](int64_t first, int64_t rows) { return at::matmul(expected_states.narrow(0, first, rows), teacher_head.t()); },
                 [&](int64_t first, int64_t rows) { return at::matmul(states.narrow(0, first, rows), student_head.t()); }, states.size(0), certificate);
  return certificate;
}

Certificate certify_same_logits(const Decoder& teacher, const Decoder& student, const at::Tensor& windows) {
  at::NoGradGuard no_grad;
  Certificate certificate;
  for (int64_t w = 0; w < windows.size(0); ++w) {
    throw_if_interrupted();
    const at::Tensor window = windows.narrow(0, w, 1);
    const at::Tensor theirs = teacher.hidden(window), ours = student.hidden(window);
    compare_logits([&](int64_t first, int64_t rows) { return teacher.logits(theirs.narrow(0, first, rows)); },
                   [&](int64_t first, int64_t rows) { return student.logits(ours.narrow(0, first, rows)); }, theirs.size(0), certificate);
  }
  certificate.as_it_is = true;
  return certificate;
}

}  // namespace overproof
