#pragma once
// The frame of the losses that compare layers.

#include <ATen/ATen.h>

#include "core/error.h"
#include "distill/losses/inner.h"

namespace overproof {

/// Mean over the student's layers of the weighted sum over tokens of compare(M x, y), F32 [tokens], with x and y what `part` takes of a
/// layer of student and teacher. y has no gradient.
template <class Part, class Compare>
at::Tensor match_layers(const InnerRows& rows, Part part, Compare compare) {
  OVERPROOF_CHECK(!rows.student.empty() && !rows.teacher.empty());
  at::Tensor sum;
  for (size_t l = 0; l < rows.student.size(); ++l) {
    const auto other = size_t(teacher_layer(int64_t(l), int64_t(rows.student.size()), int64_t(rows.teacher.size())));
    at::Tensor x = part(rows.student[l]);
    if (!rows.projections.empty()) x = at::matmul(x, rows.projections[l].t());
    const at::Tensor value = compare(x, part(rows.teacher[other]).detach()).mul(rows.weight).sum(at::kDouble);
    sum = sum.defined() ? sum + value : value;
  }
  return sum / double(rows.student.size());
}

/// |x - y|^2 / |y|^2 of each row.
inline at::Tensor relative_square(const at::Tensor& x, const at::Tensor& y) {
  return (x - y).square().sum(1) / y.square().sum(1).clamp_min(1e-12);
}

}  // namespace overproof
