#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/ops/head_loss.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {

using at::Tensor;

void head_loss(const Tensor& hidden_in, const Tensor& head, LogitsChunks chunks, const LogitsLoss& loss,
               HeadGradients* gradients) {
  at::NoGradGuard no_grad;
  const bool bf16 = product_type() == ProductType::bf16;
  const Tensor hidden = hidden_in.detach().contiguous();
  const Tensor hidden16 = bf16 && gradients ? to_bf16(hidden) : Tensor(), head16 = bf16 && gradients ? bf16_copy(head) : Tensor();
  const int64_t n = hidden.size(0), at_once = std::max<int64_t>(1, std::min(n, chunks.product));
  const Tensor buffer = at::empty({at_once, head.size(0)}, hidden.options());
  const Tensor narrow = bf16 && gradients ? at::empty({at_once, head.size(0)}, hidden16.options()) : Tensor();
  for (int64_t first = 0; first < n; first += at_once) {
    const int64_t rows = std::min(at_once, n - first);
    Tensor logits = buffer.narrow(0, 0, rows);
    const Tensor part = hidden.narrow(0, first, rows);
    if (bf16) matmul_bf16_into(logits, part, head.t());
    else at::mm_out(logits, part, head.t());
    for (int64_t r = 0; r < rows; r += chunks.loss) {
      const int64_t few = std::min(chunks.loss, rows - r);
      Tensor seen = logits.narrow(0, r, few);
      const Tensor gradient = loss(first + r, seen);
      if (!gradients) continue;
      if (bf16) kernels::narrow(gradient.const_data_ptr<float>(), narrow.narrow(0, r, few).mutable_data_ptr<at::BFloat16>(), gradient.numel());
      else if (!gradient.is_alias_of(seen)) seen.copy_(gradient);
    }
    if (!gradients) continue;
    Tensor out = gradients->hidden.narrow(0, first, rows);
    if (bf16) {
      const Tensor gradient = narrow.narrow(0, 0, rows);
      out.copy_(at::mm(gradient, head16));
      if (gradients->head.defined())
        gradients->head.add_(at::mm(gradient.t(), hidden16.narrow(0, first, rows)), gradients->scale);
    } else {
      at::mm_out(out, logits, head);
      if (gradients->head.defined()) gradients->head.addmm_(logits.t(), part, 1.0, gradients->scale);
    }
    out.mul_(gradients->scale);
  }
}

}  // namespace overproof::ops::cpu
