// Forward KL where the teacher's entropy is above h nats, reverse KL elsewhere. The entropy is that of p at the temperature of the
// targets; of top-k rows that of the named ids and the tail as one more id, which is a lower bound.
#include <ATen/ATen.h>

#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  double entropy = row.tail > 0 ? -row.tail * std::log(row.tail) : 0.0;
  for (const float p : row.p)
    if (p > 0) entropy -= double(p) * std::log(double(p));
  return (entropy > factors.parameter ? kForwardKl : kReverseKl).sparse(row, factors, gradient);
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const at::Tensor high = at::mul(rows.p, rows.log_p).sum(1, true, at::kDouble).lt(-factors.parameter);  // [rows, 1]
  const at::Tensor q = at::exp(rows.log_q), log_ratio = at::sub(rows.log_q, rows.log_p);
  const at::Tensor reverse = at::mul(q, log_ratio);
  const at::Tensor terms = at::where(high, at::mul(rows.p, log_ratio).neg_(), reverse);
  const double value = rows.total(terms.sum(1, false, at::kDouble).clamp_min_(0));  // below zero by rounding only
  if (gradient) {
    const at::Tensor mean = reverse.sum(1, true);
    gradient->add(at::where(high, at::sub(q, rows.p), log_ratio.sub_(mean).mul_(q)), factors.weight);
  }
  return value;
}

}  // namespace

const Loss kEntropyGated{.name = "entropy-gated",
                         .help = "forward-kl where the teacher's entropy is above a number of nats, reverse-kl elsewhere",
                         .takes = {TargetKind::whole, TargetKind::top_k},
                         .parameter = 1.0,
                         .least = 0.0,
                         .most = 20.0,
                         .sparse = sparse,
                         .dense = dense};

}  // namespace overproof
