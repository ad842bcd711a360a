// Skewed KL, KL(p | m) with m = a p + (1 - a) q: the share a of the teacher in m bounds the ratio p / m by 1 / a, and so the gradient
// where the student has no mass. Slope -(1 - a) p / m.
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  const double a = factors.parameter;
  return sparse_divergence(row, factors.weight, gradient, [a](double p, double q) {
    const double ratio = p / (a * p + (1 - a) * q);
    return std::pair(p * std::log(ratio), -(1 - a) * ratio);
  });
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const double a = factors.parameter;
  const at::Tensor log_m =
      at::logaddexp(rows.log_p + std::log(a), rows.log_q + std::log1p(-a));  // finite where p and q underflow
  const at::Tensor log_ratio = at::sub(rows.log_p, log_m), q = at::exp(rows.log_q), terms = at::mul(rows.p, log_ratio);
  return dense_divergence(rows, q, terms, at::exp(log_ratio).mul_(a - 1), factors.weight, gradient);
}

}  // namespace

const Loss kSkewedKl{.name = "skewed-kl",
                     .help = "KL divergence of a mixture from the teacher, in which the teacher has the share a",
                     .takes = {TargetKind::whole, TargetKind::top_k},
                     .parameter = 0.1,
                     .least = 0.001,
                     .most = 0.999,
                     .sparse = sparse,
                     .dense = dense};

}  // namespace overproof
