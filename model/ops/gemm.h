#pragma once
// One matrix product on one thread, by whichever library is fast on this processor.

#include <ATen/core/Tensor.h>

namespace overproof::ops::cpu {

/// out = scale a @ b, or out += scale a @ b, on the calling thread; out [m, n], a [m, k], b [k, n], all f32 or all bf16 on the CPU (any may be a
/// transposed or sliced view). Sums are f32. Not differentiable.
///
/// libtorch multiplies f32 by MKL, which runs a kernel for AVX2 on processors of other makers than Intel: with AVX-512, oneDNN,
/// which libtorch multiplies bf16 by, is 1.7 to 2.3 times as fast there.
void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate = false, double scale = 1);

/// Whether f32 products are oneDNN's here: then rounding operands of f32 to bf16 in front of a product gains nothing.
bool f32_by_onednn();

/// Products with ever changing numbers of rows should round them up to a multiple of this: oneDNN compiles code for each shape, which
/// takes longer than a product, and keeps it, some megabytes each.
int64_t gemm_row_multiple(at::ScalarType type);

}  // namespace overproof::ops::cpu
