#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/ops/head_loss.h"

namespace overproof::ops::cpu {

using at::Tensor;

void head_loss(const Tensor& hidden_in, const Tensor& head, int64_t chunk, const LogitsLoss& loss, HeadGradients* gradients) {
  at::NoGradGuard no_grad;
  const Tensor hidden = hidden_in.detach().contiguous();
  const int64_t n = hidden.size(0), rows_at_once = std::max<int64_t>(1, std::min(n, chunk));
  const Tensor buffer = at::empty({rows_at_once, head.size(0)}, hidden.options());
  for (int64_t first = 0; first < n; first += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, n - first);
    const Tensor part = hidden.narrow(0, first, rows);
    Tensor logits = buffer.narrow(0, 0, rows);
    at::mm_out(logits, part, head.t());
    const Tensor gradient = loss(first, logits);
    if (!gradients) continue;
    Tensor out = gradients->hidden.narrow(0, first, rows);
    at::mm_out(out, gradient, head);
    out.mul_(gradients->scale);
    if (gradients->head.defined()) gradients->head.addmm_(gradient.t(), part, 1.0, gradients->scale);
  }
}

}  // namespace overproof::ops::cpu
