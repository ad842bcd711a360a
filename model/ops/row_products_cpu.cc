#include "model/ops/row_products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"
#include "model/host_values.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;

/// The upper half of an f32, which is exact to widen.
struct Bf16 {
  uint16_t bits;
};

struct Kernels {
  void (*products_f32)(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t w_stride, int64_t columns, int64_t n,
                       float* y, int64_t y_stride);
  void (*products_bf16)(const float* x, int64_t x_stride, int64_t rows, const Bf16* w, int64_t w_stride, int64_t columns, int64_t n,
                        float* y, int64_t y_stride);
  void (*weighted_sum)(const float* p, const float* v, int64_t v_stride, int64_t terms, int64_t n, float* y);
};

// All three sets round as std::fma does and add in the same order, so they give the same bits.
namespace plain {
#define OVERPROOF_SIMD
constexpr int kRows = 1, kColumns = 1;
struct Lanes {
  float at[16];
};
inline float value(float x) { return x; }
inline float value(Bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline Lanes zero() { return {}; }
inline Lanes same(float x) {
  Lanes lanes;
  std::fill_n(lanes.at, 16, x);
  return lanes;
}
template <class W>
Lanes load_part(const W* from, int64_t count) {
  Lanes lanes{};
  for (int64_t i = 0; i < count; ++i) lanes.at[i] = value(from[i]);
  return lanes;
}
template <class W>
Lanes load(const W* from) {
  return load_part(from, 16);
}
inline void store(float* to, const Lanes& lanes) { std::copy_n(lanes.at, 16, to); }
inline Lanes multiply_add(const Lanes& a, const Lanes& b, Lanes sum) {
  for (int i = 0; i < 16; ++i) sum.at[i] = std::fma(a.at[i], b.at[i], sum.at[i]);
  return sum;
}
inline float sum(Lanes lanes) {
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes.at[i] += lanes.at[i + step];
  return lanes.at[0];
}
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
#define OVERPROOF_SIMD __attribute__((target("avx2,fma")))
constexpr int kRows = 2, kColumns = 2;
struct Lanes {
  __m256 low, high;
};
OVERPROOF_SIMD inline Lanes zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
OVERPROOF_SIMD inline Lanes same(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
OVERPROOF_SIMD inline Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
OVERPROOF_SIMD inline __m256 widened(const Bf16* from) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16));
}
OVERPROOF_SIMD inline Lanes load(const Bf16* from) { return {widened(from), widened(from + 8)}; }
template <class W>
OVERPROOF_SIMD inline Lanes load_part(const W* from, int64_t count) {
  W values[16] = {};
  std::copy_n(from, count, values);
  return load(values);
}
OVERPROOF_SIMD inline void store(float* to, const Lanes& lanes) {
  _mm256_storeu_ps(to, lanes.low);
  _mm256_storeu_ps(to + 8, lanes.high);
}
OVERPROOF_SIMD inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& sum) {
  return {_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
}
OVERPROOF_SIMD inline float sum_of_8(__m256 x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OVERPROOF_SIMD inline float sum(const Lanes& lanes) { return sum_of_8(_mm256_add_ps(lanes.low, lanes.high)); }
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace avx2

namespace avx512 {
#define OVERPROOF_SIMD __attribute__((target("avx2,fma,avx512f,avx512dq")))
constexpr int kRows = 4, kColumns = 4;
using Lanes = __m512;
OVERPROOF_SIMD inline Lanes zero() { return _mm512_setzero_ps(); }
OVERPROOF_SIMD inline Lanes same(float x) { return _mm512_set1_ps(x); }
OVERPROOF_SIMD inline Lanes load(const float* from) { return _mm512_loadu_ps(from); }
OVERPROOF_SIMD inline Lanes load(const Bf16* from) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}
template <class W>
OVERPROOF_SIMD inline Lanes load_part(const W* from, int64_t count) {
  W values[16] = {};
  std::copy_n(from, count, values);
  return load(values);
}
OVERPROOF_SIMD inline void store(float* to, Lanes lanes) { _mm512_storeu_ps(to, lanes); }
OVERPROOF_SIMD inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) { return _mm512_fmadd_ps(a, b, sum); }
OVERPROOF_SIMD inline float sum(Lanes lanes) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace avx512
#endif

const Kernels& kernels() {
#if defined(__x86_64__)
  static const Kernels& best = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? avx512::kKernels
                               : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")       ? avx2::kKernels
                                                                                                        : plain::kKernels;
  return best;
#else
  return plain::kKernels;
#endif
}

/// Multiply-adds of a task: below it, waking a thread costs more than it brings.
constexpr int64_t kTaskSize = int64_t{1} << 17;

}  // namespace

Tensor row_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  const int64_t rows = x.size(0), n = x.size(1), columns = weight.size(0);
  OVERPROOF_CHECK(weight.size(1) == n && weight.is_contiguous());
  const Tensor in = x.contiguous(), out = at::empty({rows, columns}, x.options());
  const float* from = host_values<float>(in).data();
  float* to = mutable_host_values<float>(out).data();
  const Kernels& kernel = kernels();
  const bool narrow = weight.scalar_type() == at::kBFloat16;
  const auto* bf16 = narrow ? reinterpret_cast<const Bf16*>(host_bytes(weight).data()) : nullptr;
  const float* f32 = narrow ? nullptr : host_values<float>(weight).data();
  const int64_t grain = std::max<int64_t>(16, kTaskSize / std::max<int64_t>(1, n * rows) / 16 * 16);
  at::parallel_for(0, columns, grain, [&](int64_t begin, int64_t end) {
    if (narrow) {
      kernel.products_bf16(from, n, rows, bf16 + begin * n, n, end - begin, n, to + begin, columns);
    } else {
      kernel.products_f32(from, n, rows, f32 + begin * n, n, end - begin, n, to + begin, columns);
    }
  });
  if (bias.defined()) out.add_(bias);
  if (residual.defined()) out.add_(residual);
  return out;
}

Tensor row_attention(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values) {
  const int64_t rows = q.size(0), heads = q.size(1), dim = q.size(2), kv_heads = keys[0].size(0), group = heads / kv_heads;
  OVERPROOF_CHECK(int64_t(keys.size()) == rows && int64_t(values.size()) == rows && heads == group * kv_heads);
  const Tensor in = q.contiguous(), out = at::empty({rows, heads * dim}, q.options());
  const float* from = host_values<float>(in).data();
  float* to = mutable_host_values<float>(out).data();
  const Kernels& kernel = kernels();
  const float scale = float(1.0 / std::sqrt(double(dim)));
  std::vector<const float*> key_at, value_at;
  for (size_t i = 0; i < size_t(rows); ++i) {
    OVERPROOF_CHECK(keys[i].size(2) == dim && keys[i].stride(2) == 1 && values[i].stride(2) == 1);
    key_at.push_back(keys[i].const_data_ptr<float>());
    value_at.push_back(values[i].const_data_ptr<float>());
  }
  at::parallel_for(0, rows * kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t task = begin; task < end; ++task) {
      const auto i = size_t(task / kv_heads);
      const int64_t head = task % kv_heads, length = keys[i].size(1), first = (int64_t(i) * heads + head * group) * dim;
      scores.resize(size_t(group * length));
      kernel.products_f32(from + first, dim, group, key_at[i] + head * keys[i].stride(0), keys[i].stride(1), length, dim,
                          scores.data(), length);
      for (int64_t g = 0; g < group; ++g) {
        float* p = scores.data() + g * length;
        const float most = *std::max_element(p, p + length);
        double total = 0;
        for (int64_t t = 0; t < length; ++t) total += p[t] = std::exp((p[t] - most) * scale);
        for (int64_t t = 0; t < length; ++t) p[t] = float(p[t] / total);
        kernel.weighted_sum(p, value_at[i] + head * values[i].stride(0), values[i].stride(1), length, dim, to + first + g * dim);
      }
    }
  });
  return out;
}

}  // namespace overproof::ops::cpu
