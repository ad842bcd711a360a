// Reverse KL by single draws. Where the student drew y, d = log q_y - log p_y is reverse KL on average, and d times the gradient of log q_y its gradient
// on average: in the logits d ([v = y] - q). An id to which the student gives no mass is never drawn, so what the teacher gives it would never be
// learned: over the ids with q_i below a threshold and p_i above q_i the terms of forward KL, p_i (log p_i - log q_i), are added, with the gradient
// P q_v - p_v [v is one of them], P the teacher's mass on them.
#include <ATen/ATen.h>

#include <cmath>

#include "distill/losses/losses.h"

namespace overproof {
namespace {

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  if (!rows.drawn.defined()) return 0;
  const at::Tensor excess = rows.log_q.gather(1, rows.drawn).sub_(rows.log_p.gather(1, rows.drawn));  // [rows, 1]
  at::Tensor values = excess.squeeze(1).to(at::kDouble), missed_p;
  if (factors.parameter > 0) {
    const at::Tensor log_ratio = at::sub(rows.log_p, rows.log_q);
    const at::Tensor missed = rows.log_q.lt(std::log(factors.parameter)).logical_and_(log_ratio.gt(0));
    missed_p = at::mul(rows.p, missed);
    values = values + at::mul(missed_p, log_ratio).sum(1, false, at::kDouble);
  }
  if (gradient) {
    at::Tensor of_q = excess.neg();
    if (missed_p.defined()) of_q.add_(missed_p.sum(1, true));
    at::Tensor slope = at::exp(rows.log_q).mul_(of_q);
    if (missed_p.defined()) slope.sub_(missed_p);
    slope.scatter_add_(1, rows.drawn, excess);
    gradient->add(std::move(slope), factors.weight);
  }
  return rows.total(values);
}

}  // namespace

const Loss kSampledReverseKl{.name = "sampled-reverse-kl", .help = "KL divergence of the teacher from the student, by what the student drew",
                             .takes = {TargetKind::whole}, .parameter = 1e-4, .least = 0, .most = 0.1, .dense = dense, .drawn = true};

}  // namespace overproof
