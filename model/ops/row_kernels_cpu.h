#pragma once
// Element-wise parts of the decoder on plain f32 rows, parallel over rows. A row's result depends on that row alone,
// and sums over rows are taken in fixed pieces, so the number of threads changes no bit.

#include <cstdint>

namespace overproof::ops::kernels {

/// y = w * x * rstd, rstd = (mean(x^2) + eps)^-1/2, over `width` (Zhang and Sennrich 2019). x, y [rows, width].
void rms_norm(const float* x, const float* weight, float* y, float* rstd, int64_t rows, int64_t width, double eps);

/// Gradients of rms_norm; dx or dweight may be null when it is not needed.
void rms_norm_backward(const float* x, const float* weight, const float* rstd, const float* dy, float* dx, float* dweight,
                       int64_t rows, int64_t width);

/// a[r] = scale[r] * silu(gate[r]) * up[r] (Shazeer 2020). gate_up [rows, 2 x width]: gate then up; scale null means 1.
void swiglu(const float* gate_up, const float* scale, float* a, int64_t rows, int64_t width);

/// Given da = dL/d(a / scale) [rows, width]: writes dgate_up = scale * ..., and, when dscale is not null,
/// dscale[r] = <da[r], silu(gate[r]) * up[r]>. dgate_up may be the memory of gate_up.
void swiglu_backward(const float* gate_up, const float* scale, const float* da, float* dgate_up, float* dscale, int64_t rows,
                     int64_t width);

/// Rotates the pairs (i, i + dim / 2) of each head by the angle of its position (Su et al. 2021, halves as in GPT-NeoX).
/// x, y [rows, heads, dim]; cos, sin [length, dim / 2]; the position of row r is r % length. sign -1 rotates back.
void rotate(const float* x, const float* cos, const float* sin, float* y, int64_t rows, int64_t length, int64_t heads,
            int64_t dim, float sign);

}  // namespace overproof::ops::kernels
