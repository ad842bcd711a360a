// The score function of a reward: -A log q_y where the student drew y, with the gradient A (q - [v = y]) in the logits. A is constant in the weights.
#include <ATen/ATen.h>

#include "distill/losses/losses.h"

namespace overproof {
namespace {

double dense(const DenseRows& rows, const TermFactors& factors, DenseGradient* gradient) {
  if (!rows.drawn.defined()) return 0;
  if (gradient) {
    at::Tensor slope = at::exp(rows.log_q).mul_(rows.advantage);
    slope.scatter_add_(1, rows.drawn, at::neg(rows.advantage));
    gradient->add(std::move(slope), factors.weight);
  }
  return rows.total(at::mul(rows.log_q.gather(1, rows.drawn), rows.advantage).neg_().squeeze(1).to(at::kDouble));
}

}  // namespace

const Loss kReward{.name = "reward", .help = "what the student drew, by the reward of its verifier over that of its group",
                   .takes = {TargetKind::whole}, .dense = dense, .drawn = true};

}  // namespace overproof
