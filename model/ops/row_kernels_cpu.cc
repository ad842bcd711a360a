#include "model/ops/row_kernels_cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace overproof::ops::kernels {
namespace {

constexpr int64_t kGrain = 32;  // rows a task
constexpr int64_t kPiece = 64;  // rows whose weight gradients are summed before the pieces are
constexpr int64_t kLanes = 16;  // independent partial sums: fixed, so the result is the same at any vector width

float dot(const float* a, const float* b, int64_t n) {
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

}  // namespace

void rms_norm(const float* x, const float* weight, float* y, float* rstd, int64_t rows, int64_t width, double eps) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* in = x + r * width;
      float* out = y + r * width;
      const float scale = float(1.0 / std::sqrt(double(dot(in, in, width)) / double(width) + eps));
      rstd[r] = scale;
      for (int64_t i = 0; i < width; ++i) out[i] = weight[i] * (in[i] * scale);
    }
  });
}

void rms_norm_backward(const float* x, const float* weight, const float* rstd, const float* dy, float* dx, float* dweight,
                       int64_t rows, int64_t width) {
  const int64_t pieces = (rows + kPiece - 1) / kPiece;
  std::vector<float> parts(dweight ? size_t(pieces * width) : 0);
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> g(static_cast<size_t>(width));
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t r = p * kPiece; r < std::min(rows, (p + 1) * kPiece); ++r) {
        const float* in = x + r * width;
        const float* grad = dy + r * width;
        const float s = rstd[r];
        if (dweight) {
          float* part = parts.data() + p * width;
          for (int64_t i = 0; i < width; ++i) part[i] += grad[i] * (in[i] * s);
        }
        if (dx) {
          for (int64_t i = 0; i < width; ++i) g[i] = grad[i] * weight[i];
          const float mean = dot(g.data(), in, width) / float(width) * s * s;
          float* out = dx + r * width;
          for (int64_t i = 0; i < width; ++i) out[i] = s * (g[i] - in[i] * mean);
        }
      }
    }
  });
  if (!dweight) return;
  std::fill(dweight, dweight + width, 0.0f);
  for (int64_t p = 0; p < pieces; ++p)
    for (int64_t i = 0; i < width; ++i) dweight[i] += parts[size_t(p * width + i)];
}

void swiglu(const float* gate_up, const float* scale, float* a, int64_t rows, int64_t width) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = gate_up + 2 * r * width;
      const float* up = gate + width;
      float* out = a + r * width;
      const float s = scale ? scale[r] : 1.0f;
      for (int64_t i = 0; i < width; ++i) out[i] = s * (gate[i] * sigmoid(gate[i]) * up[i]);
    }
  });
}

void swiglu_backward(const float* gate_up, const float* scale, const float* da, float* dgate_up, float* dscale, int64_t rows,
                     int64_t width) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> activation(static_cast<size_t>(width));
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = gate_up + 2 * r * width;
      const float* up = gate + width;
      const float* grad = da + r * width;
      float* dgate = dgate_up + 2 * r * width;
      float* dup = dgate + width;
      float* act = activation.data();
      const float s = scale ? scale[r] : 1.0f;
      for (int64_t i = 0; i < width; ++i) {
        const float g = gate[i], u = up[i], sg = sigmoid(g), silu = g * sg;
        act[i] = silu * u;
        dgate[i] = s * grad[i] * u * (sg + silu * (1.0f - sg));
        dup[i] = s * grad[i] * silu;
      }
      if (dscale) dscale[r] = dot(grad, act, width);
    }
  });
}

void rotate(const float* x, const float* cos, const float* sin, float* y, int64_t rows, int64_t length, int64_t heads,
            int64_t dim, float sign) {
  const int64_t half = dim / 2;
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* c = cos + (r % length) * half;
      const float* s = sin + (r % length) * half;
      for (int64_t h = 0; h < heads; ++h) {
        const float* in = x + (r * heads + h) * dim;
        float* out = y + (r * heads + h) * dim;
        for (int64_t i = 0; i < half; ++i) {
          const float a = in[i], b = in[i + half], sn = sign * s[i];
          out[i] = a * c[i] - b * sn;
          out[i + half] = b * c[i] + a * sn;
        }
      }
    }
  });
}

}  // namespace overproof::ops::kernels
