#include "model/ops/row_products.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"
#include "core/float_bits.h"
#include "core/parallel.h"
#include "model/host_values.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;

// Both are exact to widen.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

/// A RowMatrix as plain memory.
struct WeightView {
  const void* values;
  int64_t stride;  ///< elements from a row to the next
  int64_t block;   ///< columns that share a factor; all of them without factors
  const float *scales, *offsets;
  int64_t blocks;  ///< factors of a row
};

enum Form { kF32, kBf16, kF16, kCodes, kCodesWithOffsets, kForms };

struct Kernels {
  std::string_view name;
  /// y[r][c] = <x[r], w[first + c]> over n, for the weights' rows first .. first + columns - 1.
  void (*products[kForms])(const float* x, int64_t x_stride, int64_t rows, const WeightView& w, int64_t first, int64_t columns, int64_t n,
                           float* y, int64_t y_stride);
  void (*softmax)(float* p, int64_t n, float scale);
  void (*weighted_sum)(const float* p, const float* v, int64_t v_stride, int64_t terms, int64_t n, float* y);
};

/// Memory of this thread.
float* scratch(int64_t size) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < size) memory.resize(size_t(size));
  return memory.data();
}

// All three sets round as std::fma does and add in the same order, so they give the same bits.
namespace plain {
#define OVERPROOF_SIMD
constexpr int kRows = 1, kColumns = 1, kColumnsOfOne = 1, kSumsAtOnce = 1;
constexpr std::string_view kName = "plain";
struct Lanes {
  float at[16];
};
inline float value(float x) { return x; }
inline float value(Bf16 x) { return bf16_to_f32(x.bits); }
inline float value(F16 x) { return f16_to_f32(x.bits); }
inline float value(int8_t x) { return float(x); }
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
inline Lanes multiply(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.at[i] *= b.at[i];
  return a;
}
inline Lanes add(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
  return a;
}
inline Lanes larger(Lanes a, const Lanes& b) {
  for (int i = 0; i < 16; ++i) a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
  return a;
}
/// 2^n for numbers 1.5 x 2^23 + n.
inline Lanes power_of_two(Lanes x) {
  for (float& lane : x.at) lane = f32_from_bits((f32_bits(lane) << 23) + 0x3f800000u);
  return x;
}
inline float sum(Lanes lanes) {
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes.at[i] += lanes.at[i + step];
  return lanes.at[0];
}
inline void store_sums(const Lanes* lanes, float* to) { *to = sum(*lanes); }
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace plain

#if defined(__x86_64__)
/// The sums of four times 8 numbers: i and i + 4, then 2 apart, then neighbours, as sum_of_8() adds each.
__attribute__((target("avx2"))) inline __m128 four_sums_of_8(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  const __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
  const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));  // a a c c | b b d d
  const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two, two, 0x88), _mm256_shuffle_ps(two, two, 0xdd));  // a c .. | b d ..
  return _mm_unpacklo_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1));
}

namespace avx2 {
#define OVERPROOF_SIMD __attribute__((target("avx2,fma,f16c")))
constexpr int kRows = 2, kColumns = 2, kColumnsOfOne = 4, kSumsAtOnce = 4;
constexpr std::string_view kName = "avx2";
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
OVERPROOF_SIMD inline Lanes load(const F16* from) {
  const auto* at = reinterpret_cast<const __m128i*>(from);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
OVERPROOF_SIMD inline Lanes load(const int8_t* from) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)))};
}
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
OVERPROOF_SIMD inline Lanes multiply(const Lanes& a, const Lanes& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
OVERPROOF_SIMD inline Lanes add(const Lanes& a, const Lanes& b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
OVERPROOF_SIMD inline Lanes larger(const Lanes& a, const Lanes& b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
OVERPROOF_SIMD inline __m256 power_of_two_8(__m256 x) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(0x3f800000)));
}
OVERPROOF_SIMD inline Lanes power_of_two(const Lanes& x) { return {power_of_two_8(x.low), power_of_two_8(x.high)}; }
OVERPROOF_SIMD inline float sum_of_8(__m256 x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OVERPROOF_SIMD inline float sum(const Lanes& lanes) { return sum_of_8(_mm256_add_ps(lanes.low, lanes.high)); }
OVERPROOF_SIMD inline void store_sums(const Lanes* l, float* to) {
  const auto eight = [](const Lanes& lanes) OVERPROOF_SIMD { return _mm256_add_ps(lanes.low, lanes.high); };
  _mm_storeu_ps(to, four_sums_of_8(eight(l[0]), eight(l[1]), eight(l[2]), eight(l[3])));
}
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace avx2

namespace avx512 {
#define OVERPROOF_SIMD __attribute__((target("avx2,fma,f16c,avx512f,avx512dq")))
constexpr int kRows = 4, kColumns = 4, kColumnsOfOne = 8, kSumsAtOnce = 4;
constexpr std::string_view kName = "avx512";
using Lanes = __m512;
OVERPROOF_SIMD inline Lanes zero() { return _mm512_setzero_ps(); }
OVERPROOF_SIMD inline Lanes same(float x) { return _mm512_set1_ps(x); }
OVERPROOF_SIMD inline Lanes load(const float* from) { return _mm512_loadu_ps(from); }
OVERPROOF_SIMD inline Lanes load(const Bf16* from) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}
OVERPROOF_SIMD inline Lanes load(const F16* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
OVERPROOF_SIMD inline Lanes load(const int8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
template <class W>
OVERPROOF_SIMD inline Lanes load_part(const W* from, int64_t count) {
  W values[16] = {};
  std::copy_n(from, count, values);
  return load(values);
}
OVERPROOF_SIMD inline Lanes multiply(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
OVERPROOF_SIMD inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
OVERPROOF_SIMD inline Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
OVERPROOF_SIMD inline Lanes power_of_two(Lanes x) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(x), 23), _mm512_set1_epi32(0x3f800000)));
}
OVERPROOF_SIMD inline void store(float* to, Lanes lanes) { _mm512_storeu_ps(to, lanes); }
OVERPROOF_SIMD inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) { return _mm512_fmadd_ps(a, b, sum); }
OVERPROOF_SIMD inline float sum(Lanes lanes) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OVERPROOF_SIMD inline void store_sums(const Lanes* l, float* to) {
  const auto eight = [](Lanes lanes) OVERPROOF_SIMD { return _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1)); };
  _mm_storeu_ps(to, four_sums_of_8(eight(l[0]), eight(l[1]), eight(l[2]), eight(l[3])));
}
#include "model/ops/row_products_simd.h"
#undef OVERPROOF_SIMD
}  // namespace avx512
#endif

/// What this processor can run, best first.
const std::vector<const Kernels*>& usable() {
  static const std::vector<const Kernels*> sets = [] {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) found.push_back(&avx512::kKernels);
    if (avx2) found.push_back(&avx2::kKernels);
#endif
    found.push_back(&plain::kKernels);
    return found;
  }();
  return sets;
}

std::atomic<const Kernels*> g_kernels = nullptr;

const Kernels& kernels() {
  const Kernels* chosen = g_kernels;
  return chosen ? *chosen : *usable().front();
}

/// Multiply-adds of a task: below it, waking a thread costs more than it brings.
constexpr int64_t kTaskSize = int64_t{1} << 17;
/// Columns that are not divided among threads: a multiple of every kColumns and kColumnsOfOne.
constexpr int64_t kUnit = 16;
/// Rows of x for which a part of the weight is read once. With as many columns their memory fits a second-level cache.
constexpr int64_t kRowsAtOnce = 64, kColumnsAtOnce = 64;

/// Parts are handed to threads as they become free, unlike libtorch's, whose call ends with the slowest thread: on a machine that other
/// programs use as well, one thread is often late. Two parts are too few to wake a thread for.
void in_parts(int64_t n, int64_t part, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 2 * part) return body(0, n);
  parallel_for(n, part, body);
}

WeightView view_of(const RowMatrix& m) {
  OVERPROOF_CHECK(m.values.is_contiguous());
  WeightView view{host_bytes(m.values).data(), m.columns(), m.columns(), nullptr, nullptr, 1};
  if (!m.has_codes()) return view;
  OVERPROOF_CHECK(m.block >= m.columns() || (m.block > 0 && m.block % 16 == 0));
  view.block = m.block;
  view.blocks = m.scales.size(1);
  view.scales = host_values<float>(m.scales).data();
  view.offsets = m.offsets.defined() ? host_values<float>(m.offsets).data() : nullptr;
  return view;
}

Form form_of(const RowMatrix& m) {
  const auto type = m.values.scalar_type();
  if (m.has_codes()) {
    OVERPROOF_CHECK(type == at::kChar);
    return m.offsets.defined() ? kCodesWithOffsets : kCodes;
  }
  OVERPROOF_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf);
  return type == at::kFloat ? kF32 : type == at::kBFloat16 ? kBf16 : kF16;
}

/// A RowProduct as plain memory.
struct Task {
  const float* x;
  WeightView weight;
  Form form;
  float* out;
  int64_t x_stride, out_stride, rows, columns, n;

  explicit Task(const RowProduct& p)
      : weight(view_of(*p.weight)), form(form_of(*p.weight)), x_stride(p.x.size(-1)), out_stride(p.out.size(-1)), rows(p.rows),
        columns(p.weight->rows()), n(p.weight->columns()) {
    OVERPROOF_CHECK(x_stride == n && (p.x_first + rows) * x_stride <= p.x.numel());
    OVERPROOF_CHECK(p.column + columns <= out_stride && (p.first + rows) * out_stride <= p.out.numel());
    x = host_values<float>(p.x).data() + p.x_first * x_stride;
    out = mutable_host_values<float>(p.out).data() + p.first * out_stride + p.column;
  }
  int64_t unit_size() const { return kUnit * n * rows; }
  int64_t size() const { return (columns + kUnit - 1) / kUnit * unit_size(); }

  void run(const Kernels& kernel, int64_t first_unit, int64_t end_unit) const {
    const int64_t first = first_unit * kUnit, end = std::min(columns, end_unit * kUnit);
    if (first >= end) return;
    if (rows == 1) return kernel.products[form](x, x_stride, 1, weight, first, end - first, n, out + first, out_stride);
    // Rows of results may be a multiple of 4096 bytes apart, which share the lines of a cache.
    float together[kRowsAtOnce * kColumnsAtOnce];
    for (int64_t c = first; c < end; c += kColumnsAtOnce)
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
        const int64_t m = std::min(kRowsAtOnce, rows - r), k = std::min(kColumnsAtOnce, end - c);
        kernel.products[form](x + r * x_stride, x_stride, m, weight, c, k, n, together, kColumnsAtOnce);
        for (int64_t i = 0; i < m; ++i) std::copy_n(together + i * kColumnsAtOnce, k, out + (r + i) * out_stride + c);
      }
  }
};

}  // namespace

std::vector<std::string_view> row_instruction_sets() {
  std::vector<std::string_view> names;
  for (const Kernels* set : usable()) names.push_back(set->name);
  return names;
}

void use_row_instructions(std::string_view name) {
  const auto found = std::ranges::find(usable(), name, &Kernels::name);
  OVERPROOF_CHECK(found != usable().end());
  g_kernels = *found;
}

std::string_view row_instructions() { return kernels().name; }

void row_products(std::span<const RowProduct> products) {
  std::vector<Task> tasks;
  std::vector<int64_t> start;  // of each task, in multiply-adds
  int64_t size = 0;
  for (const RowProduct& p : products) {
    if (p.rows == 0) continue;
    start.push_back(size);
    size += tasks.emplace_back(p).size();
  }
  const Kernels& kernel = kernels();
  in_parts(size, kTaskSize, [&](int64_t begin, int64_t end) {
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (start[i] >= end) break;
      // A unit belongs to the thread whose part has its first multiply-add.
      const auto unit_at = [&](int64_t place) { return std::max<int64_t>(0, place - start[i] + tasks[i].unit_size() - 1) / tasks[i].unit_size(); };
      tasks[i].run(kernel, unit_at(begin), unit_at(end));
    }
  });
}

void store_positions(const Tensor& rows, const std::vector<Tensor>& caches, std::span<const int64_t> lengths) {
  const int64_t heads = rows.size(1), dim = rows.size(2);
  const Tensor in = rows.contiguous();
  const float* from = host_values<float>(in).data();
  for (size_t i = 0; i < caches.size(); ++i) {
    const int64_t room = caches[i].size(1);
    OVERPROOF_CHECK(lengths[i] < room && caches[i].size(0) == heads && caches[i].size(2) == dim);
    float* to = mutable_host_values<float>(caches[i]).data() + lengths[i] * dim;
    for (int64_t h = 0; h < heads; ++h) std::copy_n(from + (int64_t(i) * heads + h) * dim, dim, to + h * room * dim);
  }
}

Tensor row_attention(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                     std::span<const int64_t> lengths, std::span<const int64_t> begins, double cap) {
  const int64_t rows = q.size(0), heads = q.size(1), dim = q.size(2), kv_heads = keys[0].size(0), group = heads / kv_heads;
  OVERPROOF_CHECK(int64_t(keys.size()) == rows && int64_t(values.size()) == rows && int64_t(lengths.size()) == rows &&
                  heads == group * kv_heads && (begins.empty() || int64_t(begins.size()) == rows));
  const auto begin_of = [&](size_t i) { return begins.empty() ? 0 : begins[i]; };
  const Tensor in = q.contiguous(), out = at::empty({rows, heads * dim}, q.options());
  const float* from = host_values<float>(in).data();
  float* to = mutable_host_values<float>(out).data();
  const Kernels& kernel = kernels();
  const float scale = float(1.0 / std::sqrt(double(dim)));
  int64_t positions = 0;
  std::vector<const float*> key_at, value_at;
  for (size_t i = 0; i < size_t(rows); ++i) {
    OVERPROOF_CHECK(keys[i].size(2) == dim && values[i].size(2) == dim && lengths[i] <= keys[i].size(1) && lengths[i] <= values[i].size(1) &&
                    begin_of(i) >= 0 && begin_of(i) < lengths[i]);
    key_at.push_back(host_values<float>(keys[i]).data() + begin_of(i) * dim);
    value_at.push_back(host_values<float>(values[i]).data() + begin_of(i) * dim);
    positions += lengths[i] - begin_of(i);
  }
  const int64_t grain = std::max<int64_t>(1, int64_t(double(kTaskSize) * double(rows) / double(2 * group * dim * std::max<int64_t>(positions, 1))));
  in_parts(rows * kv_heads, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t task = begin; task < end; ++task) {
      const auto i = size_t(task / kv_heads);
      const int64_t head = task % kv_heads, length = lengths[i] - begin_of(i), first = (int64_t(i) * heads + head * group) * dim;
      scores.resize(size_t(group * length));
      const WeightView all_keys{key_at[i] + head * keys[i].size(1) * dim, dim, dim, nullptr, nullptr, 1};
      kernel.products[kF32](from + first, dim, group, all_keys, 0, length, dim, scores.data(), length);
      for (int64_t g = 0; g < group; ++g) {
        float* p = scores.data() + g * length;
        if (cap > 0)
          for (int64_t j = 0; j < length; ++j) p[j] = float(cap) * std::tanh(p[j] * scale / float(cap));
        kernel.softmax(p, length, cap > 0 ? 1.0f : scale);
        kernel.weighted_sum(p, value_at[i] + head * values[i].size(1) * dim, dim, length, dim, to + first + g * dim);
      }
    }
  });
  return out;
}

void add_weighted_rows(const Tensor& out, const Tensor& rows, const Tensor& weights, std::span<const int64_t> to) {
  const int64_t width = out.size(1);
  OVERPROOF_CHECK(rows.size(0) == int64_t(to.size()) && weights.numel() == rows.size(0) && rows.size(1) == width);
  const float *from = host_values<float>(rows).data(), *weight = host_values<float>(weights).data();
  float* sums = mutable_host_values<float>(out).data();
  for (size_t j = 0; j < to.size(); ++j) {
    OVERPROOF_CHECK(to[j] >= 0 && to[j] < out.size(0));
    float* sum = sums + to[j] * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += from[int64_t(j) * width + i] * weight[j];
  }
}

}  // namespace overproof::ops::cpu
