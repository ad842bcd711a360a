#include "model/ops/row_kernels_cpu.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/vector_clones.h"

namespace overproof::ops::kernels {
namespace {

constexpr int64_t kGrain = 32;  // rows a task
constexpr int64_t kPiece = 64;  // rows whose weight gradients are summed before the pieces are
constexpr int64_t kLanes = 16;  // independent partial sums: fixed, so the result is the same at any vector width

inline float dot(const float* a, const float* b, int64_t n) {
  float part[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) part[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) part[i % kLanes] += a[i] * b[i];
  for (int64_t step = kLanes / 2; step > 0; step /= 2)
    for (int64_t j = 0; j < step; ++j) part[j] += part[j + step];
  return part[0];
}

/// e^x for x in [-87, 88], clamped outside: 2^n times a polynomial on [-ln2 / 2, ln2 / 2]. Relative error below 2e-7.
/// Written out because the compiler turns a loop over it into vector code, and a loop over expf into calls.
inline float exp_f32(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;    // ln 2 in two parts
  float p = 1.9875691500e-4f;                                     // coefficients: Cephes, expf (Moshier)
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union {
    int32_t bits;
    float value;
  } scale{(int32_t(n) + 127) << 23};
  return p * scale.value;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// One row each, f32.

OVERPROOF_VECTOR_CLONES void widen_row(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = uint32_t(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

/// To nearest, ties to even, as libtorch rounds; NaN stays NaN.
OVERPROOF_VECTOR_CLONES void narrow_row(const float* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to[i] = (bits & 0x7fffffff) > 0x7f800000 ? uint16_t(0x7fc0) : uint16_t(rounded);
  }
}

OVERPROOF_VECTOR_CLONES float rms_norm_row(const float* x, const float* weight, float* y, int64_t width, double eps) {
  const float scale = float(1.0 / std::sqrt(double(dot(x, x, width)) / double(width) + eps));
  for (int64_t i = 0; i < width; ++i) y[i] = weight[i] * (x[i] * scale);
  return scale;
}

OVERPROOF_VECTOR_CLONES void rms_norm_weight_row(const float* x, const float* dy, float scale, float* dweight, int64_t width) {
  for (int64_t i = 0; i < width; ++i) dweight[i] += dy[i] * (x[i] * scale);
}

OVERPROOF_VECTOR_CLONES void rms_norm_input_row(const float* x, const float* weight, const float* dy, float scale, float* g,
                                                float* dx, int64_t width) {
  for (int64_t i = 0; i < width; ++i) g[i] = dy[i] * weight[i];
  const float mean = dot(g, x, width) / float(width) * scale * scale;
  for (int64_t i = 0; i < width; ++i) dx[i] = scale * (g[i] - x[i] * mean);
}

OVERPROOF_VECTOR_CLONES void sigmoid_row(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = sigmoid(x[i]);
}

OVERPROOF_VECTOR_CLONES void swiglu_row(const float* gate, const float* up, float scale, float* a, int64_t width) {
  for (int64_t i = 0; i < width; ++i) a[i] = scale * (gate[i] * sigmoid(gate[i]) * up[i]);
}

/// Returns <da, silu(gate) * up>; `act` is room for a row. Six pointers: with a check at run time that they do not overlap, compilers leave the loop scalar.
OVERPROOF_VECTOR_CLONES float swiglu_backward_row(const float* gate, const float* up, float scale, const float* da, float* __restrict__ dgate,
                                                  float* __restrict__ dup, float* __restrict__ act, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float g = gate[i], u = up[i], sg = sigmoid(g), silu = g * sg;
    act[i] = silu * u;
    dgate[i] = scale * da[i] * u * (sg + silu * (1.0f - sg));
    dup[i] = scale * da[i] * silu;
  }
  return dot(da, act, width);
}

OVERPROOF_VECTOR_CLONES void rotate_head(const float* x, const float* cos, const float* sin, float* y, int64_t half, float sign) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half], sn = sign * sin[i];
    y[i] = a * cos[i] - b * sn;
    y[i + half] = b * cos[i] + a * sn;
  }
}

/// A row of memory as f32: itself, or widened into `room`.
const float* row_in(const float* row, std::vector<float>&, int64_t) { return row; }
const float* row_in(const at::BFloat16* row, std::vector<float>& room, int64_t n) {
  room.resize(size_t(n));
  widen_row(reinterpret_cast<const uint16_t*>(row), room.data(), n);
  return room.data();
}

/// Where a row of results is computed: in place, or in `room`, from which finish_row() rounds it.
float* row_out(float* row, std::vector<float>&, int64_t) { return row; }
float* row_out(at::BFloat16*, std::vector<float>& room, int64_t n) {
  room.resize(size_t(n));
  return room.data();
}
void finish_row(float*, const float*, int64_t) {}
void finish_row(at::BFloat16* row, const float* values, int64_t n) { narrow_row(values, reinterpret_cast<uint16_t*>(row), n); }

}  // namespace

void widen(const at::BFloat16* from, float* to, int64_t n) {
  at::parallel_for(0, n, 1 << 15, [&](int64_t begin, int64_t end) {
    widen_row(reinterpret_cast<const uint16_t*>(from) + begin, to + begin, end - begin);
  });
}

void narrow(const float* from, at::BFloat16* to, int64_t n) {
  at::parallel_for(0, n, 1 << 15, [&](int64_t begin, int64_t end) {
    narrow_row(from + begin, reinterpret_cast<uint16_t*>(to) + begin, end - begin);
  });
}

OVERPROOF_VECTOR_CLONES void add_row(const float* a, const float* b, float* sum, int64_t width) {
  for (int64_t i = 0; i < width; ++i) sum[i] = a[i] + b[i];
}

OVERPROOF_VECTOR_CLONES void add_row(const float* a, const at::BFloat16* b, float* sum, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const uint32_t bits = uint32_t(b[i].x) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof bits);
    sum[i] = a[i] + wide;
  }
}

template <class T>
void add_rows(const float* a, const T* b, float* sum, int64_t rows, int64_t width) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) add_row(a + r * width, b + r * width, sum + r * width, width);
  });
}

template <class T>
void rms_norm(const float* x, const float* weight, T* y, float* rstd, int64_t rows, int64_t width, double eps) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t r = begin; r < end; ++r) {
      float* out = row_out(y + r * width, room, width);
      rstd[r] = rms_norm_row(x + r * width, weight, out, width, eps);
      finish_row(y + r * width, out, width);
    }
  });
}

template <class T>
void rms_norm_backward(const float* x, const float* weight, const float* rstd, const T* dy, float* dx, float* dweight,
                       int64_t rows, int64_t width) {
  const int64_t pieces = (rows + kPiece - 1) / kPiece;
  std::vector<float> parts(dweight ? size_t(pieces * width) : 0);
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> g(static_cast<size_t>(width)), room;
    for (int64_t r = begin * kPiece; r < std::min(rows, end * kPiece); ++r) {
      const float* in = x + r * width;
      const float* grad = row_in(dy + r * width, room, width);
      if (dweight) rms_norm_weight_row(in, grad, rstd[r], parts.data() + r / kPiece * width, width);
      if (dx) rms_norm_input_row(in, weight, grad, rstd[r], g.data(), dx + r * width, width);
    }
  });
  if (!dweight) return;
  std::fill(dweight, dweight + width, 0.0f);
  for (int64_t p = 0; p < pieces; ++p)
    for (int64_t i = 0; i < width; ++i) dweight[i] += parts[size_t(p * width + i)];
}

void sigmoid(const float* x, float* y, int64_t n) { sigmoid_row(x, y, n); }

template <class T>
void swiglu(const T* gate_up, const float* scale, T* a, int64_t rows, int64_t width) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> in_room, out_room;
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = row_in(gate_up + 2 * r * width, in_room, 2 * width);
      float* out = row_out(a + r * width, out_room, width);
      swiglu_row(gate, gate + width, scale ? scale[r] : 1.0f, out, width);
      finish_row(a + r * width, out, width);
    }
  });
}

template <class T>
void swiglu_backward(const T* gate_up, const float* scale, const T* da, T* dgate_up, float* dscale, int64_t rows, int64_t width) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> activation(static_cast<size_t>(width)), in_room, grad_room, out_room;
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = row_in(gate_up + 2 * r * width, in_room, 2 * width);
      float* out = row_out(dgate_up + 2 * r * width, out_room, 2 * width);
      const float s = swiglu_backward_row(gate, gate + width, scale ? scale[r] : 1.0f, row_in(da + r * width, grad_room, width),
                                          out, out + width, activation.data(), width);
      finish_row(dgate_up + 2 * r * width, out, 2 * width);
      if (dscale) dscale[r] = s;
    }
  });
}

template <class T>
void rotate(const T* x, const float* cos, const float* sin, T* y, int64_t rows, int64_t length, int64_t heads, int64_t dim,
            float sign) {
  const int64_t half = dim / 2, width = heads * dim;
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> in_room, out_room;
    for (int64_t r = begin; r < end; ++r) {
      const float* in = row_in(x + r * width, in_room, width);
      float* out = row_out(y + r * width, out_room, width);
      for (int64_t h = 0; h < heads; ++h)
        rotate_head(in + h * dim, cos + (r % length) * half, sin + (r % length) * half, out + h * dim, half, sign);
      finish_row(y + r * width, out, width);
    }
  });
}

using at::BFloat16;
template void add_rows(const float*, const float*, float*, int64_t, int64_t);
template void add_rows(const float*, const BFloat16*, float*, int64_t, int64_t);
template void rms_norm(const float*, const float*, float*, float*, int64_t, int64_t, double);
template void rms_norm(const float*, const float*, BFloat16*, float*, int64_t, int64_t, double);
template void rms_norm_backward(const float*, const float*, const float*, const float*, float*, float*, int64_t, int64_t);
template void rms_norm_backward(const float*, const float*, const float*, const BFloat16*, float*, float*, int64_t, int64_t);
template void swiglu(const float*, const float*, float*, int64_t, int64_t);
template void swiglu(const BFloat16*, const float*, BFloat16*, int64_t, int64_t);
template void swiglu_backward(const float*, const float*, const float*, float*, float*, int64_t, int64_t);
template void swiglu_backward(const BFloat16*, const float*, const BFloat16*, BFloat16*, float*, int64_t, int64_t);
template void rotate(const float*, const float*, const float*, float*, int64_t, int64_t, int64_t, int64_t, float);
template void rotate(const BFloat16*, const float*, const float*, BFloat16*, int64_t, int64_t, int64_t, int64_t, float);

}  // namespace overproof::ops::kernels
