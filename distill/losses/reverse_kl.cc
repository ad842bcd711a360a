// Reverse KL, sum_v q_v (log q_v - log p_v): f / q = log q - log p is its slope but for a constant, which no logit feels.
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  return sparse_divergence(row, factors.weight, gradient, [](double p, double q) {
    const double log_ratio = std::log(q / p);
    return std::pair(q * log_ratio, log_ratio);
  });
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const at::Tensor q = at::exp(rows.log_q), log_ratio = at::sub(rows.log_q, rows.log_p);
  return dense_divergence(rows, q, at::mul(q, log_ratio), log_ratio, factors.weight, gradient);
}

}  // namespace

const Loss kReverseKl{.name = "reverse-kl", .help = "KL divergence of the teacher from the student",
                      .takes = {TargetKind::whole, TargetKind::top_k}, .sparse = sparse, .dense = dense};

}  // namespace overproof
