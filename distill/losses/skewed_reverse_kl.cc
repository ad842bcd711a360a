// Skewed reverse KL, KL(q | m) with m = (1 - a) p + a q: finite where the teacher has no mass. Slope log(q / m) - a q / m, but for a
// constant, which no logit feels.
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  const double a = factors.parameter;
  return sparse_divergence(row, factors.weight, gradient, [a](double p, double q) {
    const double ratio = q / ((1 - a) * p + a * q), log_ratio = std::log(ratio);
    return std::pair(q * log_ratio, log_ratio - a * ratio);
  });
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const double a = factors.parameter;
  const at::Tensor log_m =
      at::logaddexp(rows.log_p + std::log1p(-a), rows.log_q + std::log(a));  // finite where p and q underflow
  const at::Tensor log_ratio = at::sub(rows.log_q, log_m), q = at::exp(rows.log_q), terms = at::mul(q, log_ratio);
  return dense_divergence(rows, q, terms, at::sub(log_ratio, at::exp(log_ratio), a), factors.weight, gradient);
}

}  // namespace

const Loss kSkewedReverseKl{.name = "skewed-reverse-kl",
                            .help = "KL divergence of a mixture from the student, in which the student has the share a",
                            .takes = {TargetKind::whole, TargetKind::top_k},
                            .parameter = 0.1,
                            .least = 0.001,
                            .most = 0.999,
                            .sparse = sparse,
                            .dense = dense};

}  // namespace overproof
