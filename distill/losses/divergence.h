#pragma once
// Divergences that are a sum over ids, sum_v f(p_v, q_v): what a loss file of that form adds is f and its slope g = df/dq. The
// gradient in the logits of q is q_v (g_v - sum_u q_u g_u).

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "distill/losses/losses.h"

namespace overproof {

/// Value of a row of top-k targets, its tail being one more id. `f(p, q)` returns a pair of f and g; both arguments are above 0.
template <class F>
double sparse_divergence(const SparseRow& row, double weight, SparseGradient* gradient, F f) {
  // One float ulp of mass is what rounding can hide: it keeps logarithms of a student's or teacher's empty tail finite.
  constexpr double kLeastTail = 0x1p-24, kLeast = std::numeric_limits<float>::min();
  double value = 0, covered = 0, mean_slope = 0;
  const auto slope_at = [&](double p, double q) {
    const auto [at_id, slope] = f(p, q);
    value += at_id;
    mean_slope += q * slope;
    return slope;
  };
  for (size_t i = 0; i < row.p.size(); ++i) {
    const double q = std::exp(double(row.log_q[i])), slope = slope_at(std::max(double(row.p[i]), kLeast), std::max(q, kLeast));
    covered += q;
    if (gradient) gradient->at[i] += weight * q * slope;
  }
  const double rest_slope = slope_at(std::max(row.tail, kLeastTail), std::max(1 - covered, kLeastTail));
  if (gradient) {
    gradient->rest += weight * (rest_slope - mean_slope);
    gradient->named -= weight * mean_slope;
  }
  return std::max(value, 0.0);  // below zero by rounding only
}

/// Value of a chunk: `terms` F32 [rows, vocabulary] is f, `slope` of the same shape g. Overwrites `slope`; `q` are the student's
/// probabilities.
double dense_divergence(const DenseRows& rows, const at::Tensor& q, const at::Tensor& terms, at::Tensor slope, double weight,
                        DenseGradient* gradient);

}  // namespace overproof
