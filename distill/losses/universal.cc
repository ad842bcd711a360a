// Universal logit distillation: both lists of probabilities, sorted, are compared place by place; the shorter one ends with zeros. It
// needs no common id. Its slope in q is the sign of the difference at q's place; where both are equal it is taken as 0.
#include <ATen/ATen.h>

#include "distill/losses/aligned.h"
#include "distill/losses/divergence.h"

namespace overproof {
namespace {

double universal_dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  const at::Tensor q = at::exp(rows.log_q);
  auto [apart, slope] = sorted_difference(q, rows.p);
  return dense_divergence(rows, q, apart, slope, factors.weight, gradient);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> sorted_difference(const at::Tensor& q, const at::Tensor& p) {
  const auto [q_sorted, places] = at::sort(q, /*stable=*/true, 1, /*descending=*/true);
  const at::Tensor p_sorted = std::get<0>(at::sort(p, 1, /*descending=*/true));
  const int64_t own = q.size(1), common = std::min(own, p.size(1));
  at::Tensor difference = q_sorted.clone();
  difference.narrow(1, 0, common).sub_(p_sorted.narrow(1, 0, common));
  const at::Tensor slope = at::empty_like(q).scatter_(1, places, at::sign(difference));
  at::Tensor apart = difference.abs_();
  // What the teacher has beyond the student's places, in the last of them: only sums are used.
  if (p.size(1) > own) apart.narrow(1, own - 1, 1).add_(p_sorted.narrow(1, own, p.size(1) - own).sum(1, true));
  return {apart, slope};
}

const Loss kUniversal{.name = "universal", .help = "sum of the differences of the sorted probabilities",
                      .takes = {TargetKind::whole, TargetKind::aligned}, .dense = universal_dense};

}  // namespace overproof
