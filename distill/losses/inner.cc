#include "distill/losses/inner.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"

namespace overproof {

int64_t teacher_layer(int64_t layer, int64_t student_layers, int64_t teacher_layers) {
  return std::max<int64_t>((layer + 1) * teacher_layers / student_layers - 1, 0);
}

at::Tensor inner_losses(const InnerRows& rows, const LossTerms& terms, LossSums& sums) {
  at::Tensor total;
  for (size_t t = 0; t < terms.size(); ++t) {
    if (!terms[t].loss->inner) continue;
    const at::Tensor value = terms[t].loss->inner(rows);
    sums.values[t] += value.item<double>();
    if (terms[t].weight == 0) continue;
    total = total.defined() ? total + value * terms[t].weight : value * terms[t].weight;
  }
  return total;
}

bool any_needs(const LossTerms& terms, Inside what) {
  return std::ranges::any_of(terms, [&](const LossTerm& term) { return term.loss->inside == what; });
}

}  // namespace overproof
