// Even loads of the experts within each sequence. The loads f have no gradient; the shares P do.
#include <ATen/ATen.h>

#include "distill/losses/inner.h"

namespace overproof {
namespace {

at::Tensor inner(const InnerRows& rows) {
  at::Tensor sum;
  const at::Tensor weight = rows.weight.view({-1, rows.length, 1}), of_sequence = weight.sum(1);  // [sequences, 1]
  for (const RouterRecord& layer : rows.routing) {
    const int64_t experts = layer.scores.size(1), k = layer.selected.size(1);
    const at::Tensor score = layer.scores.sigmoid(), share = score / (score.sum(1, true) + 1e-20);
    const at::Tensor chosen = at::zeros_like(layer.scores.detach()).scatter_(1, layer.selected.to(at::kLong), 1.0);
    const auto in_sequences = [&](const at::Tensor& x) { return x.view({-1, rows.length, experts}).mul(weight).sum(1); };
    // Sums of both over a sequence; one of their weights is divided out, so that a sequence counts with its weight.
    const at::Tensor product = (in_sequences(chosen) * in_sequences(share)).sum(1, true) * (double(experts) / double(k));
    const at::Tensor value = (product / of_sequence.clamp_min(1e-20)).sum(at::kDouble);
    sum = sum.defined() ? sum + value : value;
  }
  return sum / double(rows.routing.size());
}

}  // namespace

const Loss kBalance{.name = "balance",
                    .help = "uneven loads of the experts in a sequence; 1 where they are even",
                    .inside = Inside::router,
                    .inner = inner};

}  // namespace overproof
