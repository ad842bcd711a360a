// Generalised Jensen-Shannon divergence b KL(p | m) + (1 - b) KL(q | m) with m = b p + (1 - b) q; slope (1 - b) (log q - log m).
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  const double b = factors.parameter;
  return sparse_divergence(row, factors.weight, gradient, [b](double p, double q) {
    const double m = b * p + (1 - b) * q, slope = (1 - b) * std::log(q / m);
    return std::pair(b * p * std::log(p / m) + q * slope, slope);
  });
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const double b = factors.parameter;
  const at::Tensor log_m = at::logaddexp(rows.log_p + std::log(b), rows.log_q + std::log1p(-b));  // finite where p and q underflow
  const at::Tensor q = at::exp(rows.log_q), slope = at::sub(rows.log_q, log_m).mul_(1 - b);
  const at::Tensor terms = at::sub(rows.log_p, log_m).mul_(rows.p).mul_(b).addcmul_(q, slope);
  return dense_divergence(rows, q, terms, slope, factors.weight, gradient);
}

}  // namespace

const Loss kJensenShannon{.name = "jensen-shannon",
                          .help = "divergence of teacher and student from their mixture, in which the teacher has the share b",
                          .takes = {TargetKind::whole, TargetKind::top_k}, .parameter = 0.5, .least = 0.001, .most = 0.999,
                          .sparse = sparse, .dense = dense};

}  // namespace overproof
