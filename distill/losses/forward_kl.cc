// Forward KL, sum_i p_i (log p_i - log q_i); its gradient in the logits of q is q - p. With a tail t of the teacher, all ids that
// the row does not name are one bin: the value adds t (log t - log(1 - sum_K q)), and the gradient of such an id is
// q (1 - t / (1 - sum_K q)).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "distill/losses/losses.h"

namespace overproof {
namespace {

double sparse(const SparseRow& row, const TermFactors& factors, SparseGradient* gradient) {
  double kl = 0, covered = 0;
  for (size_t i = 0; i < row.p.size(); ++i) {
    if (row.p[i] > 0) kl += double(row.p[i]) * (std::log(double(row.p[i])) - double(row.log_q[i]));
    covered += std::exp(double(row.log_q[i]));
  }
  double outside = 1;
  if (row.tail > 0) {
    // A student that has put everything on the named ids would have an infinite KL; one float ulp of mass keeps it finite.
    const double rest = std::max(1 - covered, 0x1p-24);
    kl += row.tail * (std::log(row.tail) - std::log(rest));
    outside = 1 - row.tail / rest;
  }
  if (gradient) {
    gradient->rest += factors.weight * outside;
    gradient->named += factors.weight;
    for (size_t i = 0; i < row.p.size(); ++i) gradient->at[i] -= factors.weight * double(row.p[i]);
  }
  return std::max(kl, 0.0);  // below zero by rounding only
}

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const at::Tensor terms = at::sub(rows.log_p, rows.log_q).mul_(rows.p);
  if (gradient) {
    gradient->q += factors.weight;
    gradient->p -= factors.weight;
  }
  return rows.total(terms.sum(1, false, at::kDouble).clamp_min_(0));  // below zero by rounding only
}

}  // namespace

const Loss kForwardKl{.name = "forward-kl", .help = "KL divergence of the student from the teacher",
                      .takes = {TargetKind::whole, TargetKind::sampled, TargetKind::top_k}, .sparse = sparse, .dense = dense};

}  // namespace overproof
