// Unlikelihood of loops: where the student drew an id that completes a run of n ids which it had written before, -log (1 - q_y), with the gradient
// q_y / (1 - q_y) ([v = y] - q_v) in the logits. Welleck et al. 2020, "Neural text generation with unlikelihood training" (arXiv:1908.04319), equation 7.
#include <ATen/ATen.h>

#include "distill/losses/losses.h"

namespace overproof {
namespace {

// The least 1 - q_y that is divided by: below, the f32 of log q_y has no digits of it left.
constexpr double kLeastRest = 1e-6;

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  if (!rows.drawn.defined() || !rows.repeated.defined()) return 0;
  // f64: 1 - q_y loses the digits of q_y where that is near 0 or 1
  const at::Tensor q_y = rows.log_q.gather(1, rows.drawn).to(at::kDouble).exp_(), rest = at::rsub(q_y, 1).clamp_min_(kLeastRest);  // [rows, 1]
  if (gradient) {
    const at::Tensor odds = at::div(q_y, rest).to(at::kFloat).mul_(rows.repeated);
    at::Tensor slope = at::exp(rows.log_q).mul_(odds.neg());
    slope.scatter_add_(1, rows.drawn, odds);
    gradient->add(std::move(slope), factors.weight);
  }
  return rows.total(at::log(rest).neg_().mul_(rows.repeated).squeeze(1));
}

}  // namespace

const Loss kUnlikelihood{.name = "unlikelihood", .help = "ids that complete a run of ids which the student had written before",
                         .takes = {TargetKind::whole}, .parameter = 4, .least = 1, .most = 64, .integer = true, .dense = dense, .drawn = true,
                         .of_repeats = true};

}  // namespace overproof
