// Cross-entropy with the next token y of the corpus, -log q_y at temperature 1; its gradient in the logits is q - [v = y].
#include <ATen/ATen.h>

#include "distill/losses/losses.h"

namespace overproof {
namespace {

double labels(const LabelRows& rows, const TermFactors& factors, LabelGradient* gradient) {
  if (gradient) {
    gradient->q += factors.weight;
    gradient->label -= factors.weight;
  }
  return -(rows.weight.defined() ? rows.log_q.squeeze(1).to(at::kDouble).dot(rows.weight) : rows.log_q.sum(at::kDouble))
              .item<double>();
}

}  // namespace

const Loss kCrossEntropy{.name = "cross-entropy", .help = "cross-entropy with the next token of the corpus", .labels = labels};

}  // namespace overproof
