#include "core/products.h"

#include <cstring>

namespace overproof {
namespace {

constexpr int64_t kLanes = 16, kRows = 4;
/// Depth of a block, so that kDepth x kLanes of b stay in the first-level cache while all rows pass over them.
constexpr int64_t kDepth = 256;

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

/// ROWS x 16 elements of c stay in registers while k runs.
template <int64_t ROWS>
__attribute__((always_inline)) inline void tile(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb,
                                                int64_t k) {
  Lanes sum[ROWS];
  for (int64_t r = 0; r < ROWS; ++r) std::memcpy(&sum[r], c + r * ldc, sizeof(Lanes));
  for (int64_t i = 0; i < k; ++i) {
    Lanes row;
    std::memcpy(&row, b + i * ldb, sizeof(Lanes));
    for (int64_t r = 0; r < ROWS; ++r) sum[r] -= a[r * lda + i] * row;
  }
  for (int64_t r = 0; r < ROWS; ++r) std::memcpy(c + r * ldc, &sum[r], sizeof(Lanes));
}

}  // namespace

#if defined(__x86_64__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void subtract_product(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t m, int64_t n, int64_t k) {
  for (int64_t depth = 0; depth < k; depth += kDepth) {
    const int64_t count = depth + kDepth < k ? kDepth : k - depth;
    const float *from = a + depth, *with = b + depth * ldb;
    int64_t column = 0;
    for (; column + kLanes <= n; column += kLanes) {
      int64_t row = 0;
      for (; row + kRows <= m; row += kRows)
        tile<kRows>(c + row * ldc + column, ldc, from + row * lda, lda, with + column, ldb, count);
      for (; row < m; ++row) tile<1>(c + row * ldc + column, ldc, from + row * lda, lda, with + column, ldb, count);
    }
    for (int64_t row = 0; row < m; ++row)
      for (int64_t j = column; j < n; ++j) {
        float sum = c[row * ldc + j];
        for (int64_t i = 0; i < count; ++i) sum -= from[row * lda + i] * with[i * ldb + j];
        c[row * ldc + j] = sum;
      }
  }
}

}  // namespace overproof
