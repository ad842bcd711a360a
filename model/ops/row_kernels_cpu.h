#pragma once
// Element-wise parts of the decoder on plain rows of memory, parallel over rows. Rows of T are f32 or bf16 (at::BFloat16); all is
// computed in f32 and rounded once, at the end. A row's result depends on that row alone, and sums over rows are taken in fixed
// pieces, so neither the number of threads nor the width of the processor's vectors changes a bit.

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace overproof::ops::kernels {

void widen(const at::BFloat16* from, float* to, int64_t n);
/// Rounds to nearest, ties to even.
void narrow(const float* from, at::BFloat16* to, int64_t n);

/// sum = a + b, over `width`, by this thread alone. sum may be the memory of a.
void add_row(const float* a, const float* b, float* sum, int64_t width);
void add_row(const float* a, const at::BFloat16* b, float* sum, int64_t width);

/// sum = a + b; all [rows, width]. sum may be the memory of a.
template <class T>
void add_rows(const float* a, const T* b, float* sum, int64_t rows, int64_t width);

/// y = w * x * rstd, rstd = (mean(x^2) + eps)^-1/2, over `width` (Zhang and Sennrich 2019). x, y [rows, width].
template <class T>
void rms_norm(const float* x, const float* weight, T* y, float* rstd, int64_t rows, int64_t width, double eps);

/// Gradients of rms_norm; dx or dweight may be null when it is not needed.
template <class T>
void rms_norm_backward(const float* x, const float* weight, const float* rstd, const T* dy, float* dx, float* dweight,
                       int64_t rows, int64_t width);

/// a[r] = scale[r] * silu(gate[r]) * up[r] (Shazeer 2020). gate_up [rows, 2 x width]: gate then up; scale null means 1.
template <class T>
void swiglu(const T* gate_up, const float* scale, T* a, int64_t rows, int64_t width);

/// Given da = dL/d(a / scale) [rows, width]: writes dgate_up = scale * ..., and, when dscale is not null,
/// dscale[r] = <da[r], silu(gate[r]) * up[r]>. dgate_up must be other memory than gate_up.
template <class T>
void swiglu_backward(const T* gate_up, const float* scale, const T* da, T* dgate_up, float* dscale, int64_t rows, int64_t width);

/// y = 1 / (1 + e^-x), by this thread alone. y may be the memory of x.
void sigmoid(const float* x, float* y, int64_t n);

/// Rotates the pairs (i, i + dim / 2) of each head by the angle of its position (Su et al. 2021, halves as in GPT-NeoX).
/// x, y [rows, heads, dim]; cos, sin [length, dim / 2]; the position of row r is r % length. sign -1 rotates back.
template <class T>
void rotate(const T* x, const float* cos, const float* sin, T* y, int64_t rows, int64_t length, int64_t heads, int64_t dim,
            float sign);

}  // namespace overproof::ops::kernels
