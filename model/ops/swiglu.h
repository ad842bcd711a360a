#pragma once
// The SwiGLU feed-forward block (Shazeer 2020). linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

/// silu(gate) * up -> [n, width]; gate_up [n, 2 x width]: gate, then up. Not differentiable.
at::Tensor swiglu(const at::Tensor& gate_up);

/// residual + swiglu(x @ gate_up^T) @ down^T -> [n, hidden]; x [n, hidden], gate_up [2 x width, hidden] (gate rows, then up
/// rows), down [hidden, width]. residual may be undefined. The CPU form saves x and x @ gate_up^T.
at::Tensor feed_forward(const at::Tensor& x, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& residual);

namespace cpu {
decltype(ops::swiglu) swiglu;
decltype(ops::feed_forward) feed_forward;
}  // namespace cpu

namespace aten {
decltype(ops::swiglu) swiglu;
decltype(ops::feed_forward) feed_forward;
}  // namespace aten

}  // namespace overproof::ops
