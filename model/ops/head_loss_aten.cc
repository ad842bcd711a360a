#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/ops/head_loss.h"
#include "model/placement.h"

namespace overproof::ops::aten {

using at::Tensor;

void head_loss(const Tensor& hidden, const Tensor& head, LogitsChunks chunks, const LogitsLoss& loss,
               HeadGradients* gradients) {
  at::NoGradGuard no_grad;
  const int64_t n = hidden.size(0);
  for (int64_t first = 0; first < n; first += chunks.loss) {
    const Tensor part = hidden.detach().narrow(0, first, std::min(chunks.loss, n - first));
    Tensor logits = at::matmul(part, head.t()).to(wide_type(hidden.scalar_type()));
    const Tensor gradient = loss(first, logits);
    if (!gradients) continue;
    const Tensor narrow = gradient.to(head.scalar_type());
    gradients->hidden.narrow(0, first, part.size(0)).copy_(at::matmul(narrow, head) * gradients->scale);
    if (gradients->head.defined()) gradients->head.add_(at::matmul(narrow.t(), part), gradients->scale);
  }
}

}  // namespace overproof::ops::aten
