#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/ops/gemm.h"
#include "model/ops/head_loss.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {

using at::Tensor;

namespace {

constexpr int64_t kBlock = 1024;  // ids of the vocabulary a task: fixed, so that no bit depends on the number of threads
constexpr int64_t kGradientBlock = 8192;
constexpr int64_t kParts = 4;     // of the rows or columns of a gradient

/// body(first, count) for all blocks of ids.
template <class Body>
void for_blocks(int64_t vocab, const Body& body) {
  at::parallel_for(0, (vocab + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t block = begin; block < end; ++block) body(block * kBlock, std::min(kBlock, vocab - block * kBlock));
  });
}

/// Where a part of a whole begins, at multiples of 32: fixed, as kBlock is.
int64_t part_begin(int64_t whole, int64_t part) { return part == kParts ? whole : whole * part / kParts / 32 * 32; }

/// body(first, count) for each part of a whole.
template <class Body>
void for_parts(int64_t whole, const Body& body) {
  at::parallel_for(0, kParts, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (int64_t part = begin; part < end; ++part)
      if (const int64_t first = part_begin(whole, part), count = part_begin(whole, part + 1) - first; count > 0) body(first, count);
  });
}

/// out [rows, hidden] = scale x gradient [rows, vocab] @ head [vocab, hidden], f32. Blocks of ids, because a library that packs its
/// operands would have the whole head once more for each thread.
void hidden_gradient(const Tensor& out, const Tensor& gradient, const Tensor& head, double scale) {
  const int64_t vocab = head.size(0);
  for_parts(out.size(0), [&](int64_t first, int64_t count) {
    Tensor into = out.narrow(0, first, count);
    const Tensor rows = gradient.narrow(0, first, count);
    for (int64_t id = 0; id < vocab; id += kGradientBlock) {
      const int64_t ids = std::min(kGradientBlock, vocab - id);
      const Tensor a = rows.narrow(1, id, ids), b = head.narrow(0, id, ids);
      if (gradient.scalar_type() == at::kFloat) gemm(into, a, b, id > 0, scale);
      else if (id == 0) at::mul_out(into, at::mm(a, b).to(at::kFloat), at::scalar_tensor(scale));
      else into.add_(at::mm(a, b), scale);
    }
  });
}

/// sum [vocab, hidden] += scale x gradient^T @ hidden [rows, hidden], f32. oneDNN copies blocks of ids of an f32 gradient, so there the
/// columns of `hidden` are the parts.
void head_gradient(const Tensor& sum, const Tensor& gradient, const Tensor& hidden, double scale) {
  if (gradient.scalar_type() == at::kFloat) {
    for_parts(hidden.size(1), [&](int64_t first, int64_t count) {
      gemm(sum.narrow(1, first, count), gradient.t(), hidden.narrow(1, first, count), true, scale);
    });
    return;
  }
  for_blocks(sum.size(0), [&](int64_t id, int64_t count) {
    sum.narrow(0, id, count).add_(at::mm(gradient.narrow(1, id, count).t(), hidden), scale);
  });
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
        gemm(logits.narrow(1, id, count), part, head.narrow(0, id, count).t());
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
    head_gradient(gradients->head, gradient, hidden_operand.narrow(0, first, rows), gradients->scale);
  }
}

}  // namespace overproof::ops::cpu
