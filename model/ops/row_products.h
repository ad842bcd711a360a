#pragma once
// Products for decoding, where a batch is one token of each of a few sequences. The bits of a row depend on that row, the weight and
// nothing else: not on how many rows there are, its place among them, how many threads run, or, in the CPU form, how wide the
// processor's vectors are. So a sequence gets the same tokens alone, in any batch, and after a resume. linear() does not promise
// that: a GEMM library sums in another order for another number of rows. Not differentiable. linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

#include <vector>

namespace overproof::ops {

/// x [n, in] @ weight^T (+ bias) (+ residual) -> [n, out]; weight [out, in], bias [out], residual [n, out]; bias and residual may be
/// undefined. The CPU form reads the weight once for all rows and takes it as f32 or bf16; each product is a sum of 16 chains of
/// fused multiply-adds over `in`, added as a tree.
at::Tensor row_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}, const at::Tensor& residual = {});

/// Attention of one query of each of n sequences -> [n, heads x dim]. q [n, heads, dim]; keys[i] and values[i] [kv_heads, length of
/// sequence i, dim], the positions that row i sees, with the values of a position next to each other; heads is a multiple of
/// kv_heads.
at::Tensor row_attention(const at::Tensor& q, const std::vector<at::Tensor>& keys, const std::vector<at::Tensor>& values);

namespace cpu {
decltype(ops::row_linear) row_linear;
decltype(ops::row_attention) row_attention;
}  // namespace cpu

namespace aten {
decltype(ops::row_linear) row_linear;
decltype(ops::row_attention) row_attention;
}  // namespace aten

}  // namespace overproof::ops
