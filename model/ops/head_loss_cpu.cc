#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "model/ops/head_loss.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {

using at::Tensor;

namespace {

constexpr int64_t kBlock = 1024;  // ids of the vocabulary a task: fixed, so that no bit depends on the number of threads
constexpr int64_t kParts = 4;     // partial sums over the vocabulary, added in order

/// body(first, count) for all blocks of ids.
template <class Body>
void for_blocks(int64_t vocab, const Body& body) {
  at::parallel_for(0, (vocab + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t block = begin; block < end; ++block) body(block * kBlock, std::min(kBlock, vocab - block * kBlock));
  });
}

/// out [rows, hidden] = scale x gradient [rows, vocab] @ head [vocab, hidden], f32. Each part goes through its ids once, with a
/// sum that stays in the cache.
void hidden_gradient(const Tensor& out, const Tensor& gradient, const Tensor& head, double scale) {
  const int64_t vocab = head.size(0), blocks = (vocab + kBlock - 1) / kBlock;
  std::vector<Tensor> sums(static_cast<size_t>(kParts));
  at::parallel_for(0, kParts, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (int64_t part = begin; part < end; ++part) {
      Tensor& sum = sums[size_t(part)];
      for (int64_t block = blocks * part / kParts; block < blocks * (part + 1) / kParts; ++block) {
        const int64_t first = block * kBlock, count = std::min(kBlock, vocab - first);
        const Tensor a = gradient.narrow(1, first, count), b = head.narrow(0, first, count);
        if (!sum.defined()) sum = at::mm(a, b).to(at::kFloat);
        else if (gradient.scalar_type() == at::kFloat) sum.addmm_(a, b);
        else sum.add_(at::mm(a, b));
      }
    }
  });
  Tensor target = out;
  target.zero_();
  for (const Tensor& sum : sums)
    if (sum.defined()) target.add_(sum, scale);
}

}  // namespace

void head_loss(const Tensor& hidden_in, const Tensor& head, LogitsChunks chunks, const LogitsLoss& loss,
               HeadGradients* gradients) {
  at::NoGradGuard no_grad;
  const bool bf16 = product_type() == ProductType::bf16;
  const Tensor hidden = hidden_in.detach().contiguous();
  // Operands of the products of gradients.
  const Tensor hidden_operand = bf16 && gradients ? to_bf16(hidden) : hidden, head_operand = bf16 && gradients ? bf16_copy(head) : head;
  const int64_t n = hidden.size(0), vocab = head.size(0), at_once = std::max<int64_t>(1, std::min(n, chunks.product));
  const Tensor buffer = at::empty({at_once, vocab}, hidden.options());
  const Tensor buffer16 = bf16 && gradients ? at::empty({at_once, vocab}, hidden_operand.options()) : Tensor();
  for (int64_t first = 0; first < n; first += at_once) {
    const int64_t rows = std::min(at_once, n - first);
    const Tensor logits = buffer.narrow(0, 0, rows), part = hidden.narrow(0, first, rows);
    if (bf16) {
      matmul_bf16_into(logits, part, head.t());
    } else {
      for_blocks(vocab, [&](int64_t id, int64_t count) {
        Tensor block = logits.narrow(1, id, count);
        at::mm_out(block, part, head.narrow(0, id, count).t());
      });
    }
    for (int64_t r = 0; r < rows; r += chunks.loss) {
      Tensor seen = logits.narrow(0, r, std::min(chunks.loss, rows - r));
      const Tensor gradient = loss(first + r, seen);
      if (!gradients) continue;
      if (bf16)
        kernels::narrow(gradient.const_data_ptr<float>(), buffer16.narrow(0, r, seen.size(0)).mutable_data_ptr<at::BFloat16>(),
                        gradient.numel());
      else if (!gradient.is_alias_of(seen)) seen.copy_(gradient);
    }
    if (!gradients) continue;
    const Tensor gradient = bf16 ? buffer16.narrow(0, 0, rows) : logits;
    hidden_gradient(gradients->hidden.narrow(0, first, rows), gradient, head_operand, gradients->scale);
    if (!gradients->head.defined()) continue;
    const Tensor operand = hidden_operand.narrow(0, first, rows);
    for_blocks(vocab, [&](int64_t id, int64_t count) {
      Tensor block = gradients->head.narrow(0, id, count);
      const Tensor transposed = gradient.narrow(1, id, count).t();
      if (bf16) block.add_(at::mm(transposed, operand), gradients->scale);
      else block.addmm_(transposed, operand, 1.0, gradients->scale);
    });
  }
}

}  // namespace overproof::ops::cpu
