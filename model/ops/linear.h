#pragma once
// Matrix products.
//
// Every operator of this folder is declared once, in a header of its name. Its overproof::ops:: form chooses by the placement
// of its first tensor (dispatch.cc): f32 on the CPU runs ops::cpu:: (<name>_cpu.cc, written for speed), everything else
// ops::aten:: (<name>_aten.cc, plain ATen operations for any device and type). Both are differentiable unless the
// header notes otherwise, and tests/model/ops_test.cc compares them on the CPU, values and gradients. Call them as ops::name(): at::
// has functions of some of the same names, which argument-dependent lookup would find.
//
// ops::cpu:: takes contiguous tensors. It saves only what its backward pass cannot compute again, and computes no gradient
// that is not asked for. Products are cut into tiles whose sizes do not depend on the number of threads, and one thread
// computes a tile, so neither values nor gradients depend on that number.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

/// x [n, in] @ weight^T (+ bias) (+ residual) -> [n, out]; weight [out, in], bias [out], residual [n, out]. bias and residual
/// may be undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}, const at::Tensor& residual = {});

/// out = a @ b, or out += a @ b; out [m, n], a [m, k], b [k, n] (any may be a transposed or sliced view). Not differentiable.
void matmul_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate = false);

namespace cpu {
decltype(ops::linear) linear;
decltype(ops::matmul_into) matmul_into;
}  // namespace cpu

namespace aten {
decltype(ops::linear) linear;
decltype(ops::matmul_into) matmul_into;
}  // namespace aten

}  // namespace overproof::ops
