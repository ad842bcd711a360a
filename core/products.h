#pragma once
// The matrix products of calibration. Every element is a sum in ascending order without fused operations, for any
// vector width: wider vectors compute more elements at a time, not in another order.

#include <cstdint>

namespace overproof {

/// c [m, n] -= a [m, k] x b [k, n]; rows are `ldc`, `lda`, `ldb` floats apart. One thread. c overlaps neither a nor b.
void subtract_product(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t m, int64_t n,
                      int64_t k);

}  // namespace overproof
