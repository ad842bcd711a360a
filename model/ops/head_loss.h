#pragma once
// A loss of a head's logits without ever holding all logits: they exist for one chunk of rows at a time, and their gradient
// takes their place, so peak memory does not grow with rows x vocabulary. linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

#include <functional>

namespace overproof::ops {

/// The loss of rows first, first + 1, ... given their logits [rows, vocab], a buffer that it may overwrite and that the next
/// chunk reuses. Returns the loss's gradient with respect to the logits, of the same shape (the buffer itself or another
/// tensor); the return value is ignored without HeadGradients.
using LogitsLoss = std::function<at::Tensor(int64_t first, at::Tensor& logits)>;

/// Where the gradients go; both are multiplied by `scale`.
struct HeadGradients {
  at::Tensor hidden;   ///< [n, hidden], written
  at::Tensor head;     ///< [vocab, hidden], added to; undefined when the head is not trained
  double scale = 1.0;  ///< such as 1 / number of rows of a whole batch
};

/// Rows of hidden states whose logits exist at one time, and those of them that a loss sees in one call. Products need many rows,
/// passes over logits few, so that a processor's cache holds them.
struct LogitsChunks {
  int64_t product = 1, loss = 1;
};

/// Calls `loss` for consecutive rows of hidden [n, hidden] @ head^T [vocab, hidden], in order, and fills `gradients` unless it is
/// null. Nothing is recorded by autograd. The logits are f32 (f64 for f64), with products in bf16 too.
void head_loss(const at::Tensor& hidden, const at::Tensor& head, LogitsChunks chunks, const LogitsLoss& loss,
               HeadGradients* gradients);

/// hidden [n, hidden] @ head^T [vocab, hidden], f32 (f64 for f64) with products in bf16 too. Not differentiable.
at::Tensor logits(const at::Tensor& hidden, const at::Tensor& head);

/// As many rows as keep one buffer of f32 logits near 64 MiB, at least 16 and at most 1024; the loss sees as many as keep them near
/// 2 MiB, at least 8.
LogitsChunks logits_chunks(int64_t vocab_size);

namespace cpu {
decltype(ops::head_loss) head_loss;
}
namespace aten {
decltype(ops::head_loss) head_loss;
}

}  // namespace overproof::ops
