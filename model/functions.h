#pragma once
// The differentiable pieces of the decoder. Each saves only what its backward pass cannot make again, and does no
// gradient work for an input that asks for none. f32, contiguous. Products are cut into tiles whose sizes do not depend
// on the number of threads and each tile is computed by one thread, so neither results nor gradients depend on it.
// A namespace of their own keeps them apart from the functions of the same names in at::.

#include <ATen/core/Tensor.h>

namespace overproof::nn {

/// out = a @ b, or out += a @ b; out [m, n], a [m, k], b [k, n] (any may be a transposed or sliced view). Not differentiable.
void matmul_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate = false);

/// x [n, in] @ weight^T (+ bias) (+ residual); weight [out, in]. bias and residual may be undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}, const at::Tensor& residual = {});

/// Over the last dimension; saves x and one number a row.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// x [n, heads, dim], cos and sin [length, dim / 2]; row r stands at position r % length. Saves nothing of x.
at::Tensor rotate_positions(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

/// residual + swiglu(x @ gate_up^T) @ down^T; saves x and x @ gate_up^T. residual may be undefined.
at::Tensor feed_forward(const at::Tensor& x, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& residual);

}  // namespace overproof::nn
