// Total variation, sum_v |p_v - q_v| / 2; where both are equal the slope is taken as 0.
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  return sparse_divergence(row, factors.weight, gradient, [](double p, double q) {
    return std::pair(0.5 * std::abs(q - p), q > p ? 0.5 : q < p ? -0.5 : 0.0);
  });
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const at::Tensor q = at::exp(rows.log_q), difference = at::sub(q, rows.p).mul_(0.5), slope = at::sign(difference).mul_(0.5);
  return dense_divergence(rows, q, at::abs(difference), slope, factors.weight, gradient);
}

}  // namespace

const Loss kTotalVariation{.name = "total-variation", .help = "half the sum of the differences of the probabilities",
                           .takes = {TargetKind::whole, TargetKind::top_k}, .sparse = sparse, .dense = dense};

}  // namespace overproof
