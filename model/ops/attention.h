#pragma once
// Causal attention with grouped keys and values (Ainslie et al. 2023). linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

/// softmax(q k^T / sqrt(dim)) v -> [batch, heads, new, dim]. q [batch, heads, new, dim]; k and v [batch, kv_heads, length, dim],
/// length >= new; heads is a multiple of kv_heads, and head h uses key head h / (heads / kv_heads). The last query is at the
/// position of the last key: query i sees keys 0 .. length - new + i. Any of the three may be a transposed view.
/// `cap`: scores are cap x tanh(score / cap) before the softmax, and exist all at once; 0: none.
/// `mask`, bool and broadcast to [batch, heads, new, length]: true where a query sees a key, instead of the causal rule; undefined: none.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask, double cap = 0);
inline at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) { return attention(q, k, v, {}); }

namespace cpu {
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask = {}, double cap = 0);
/// The same without a mask for new == length, by gemm(): libtorch's fused attention multiplies by MKL (gemm.h). Scores and sums are f32
/// for f32 and bf16. Memory: scores of 128 queries a thread, and the gradients of keys and values once for each head.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
}  // namespace cpu
namespace aten {
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask = {}, double cap = 0);
}

}  // namespace overproof::ops
