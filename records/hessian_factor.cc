#include "records/hessian_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

using FactorMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Rows or columns of a piece of work.
constexpr int64_t kFactorBlock = 64;

/// Eigen splits sums by the cache sizes of this machine unless they are set: the result would depend on the processor.
void fix_cache_sizes() {
  static const bool done = [] {
    Eigen::setCpuCacheSizes(32 << 10, 256 << 10, 2 << 20);
    return true;
  }();
  (void)done;
}

/// Calls body(first, count) for pieces of [begin, end) of kFactorBlock rows or columns, in parallel.
template <class Body>
void each_block(int64_t begin, int64_t end, const Body& body) {
  parallel_for(end - begin, kFactorBlock, [&](int64_t first, int64_t last) { body(begin + first, last - first); });
}

/// Replaces a's lower triangle by L with L L^T = a; false when a is not positive definite.
bool cholesky(FactorMatrix& a) {
  const int64_t n = a.rows();
  for (int64_t k = 0; k < n; k += kFactorBlock) {
    const int64_t width = std::min(kFactorBlock, n - k), rest = k + width;
    const FactorMatrix diagonal = a.block(k, k, width, width);
    const Eigen::LLT<FactorMatrix> llt(diagonal);
    if (llt.info() != Eigen::Success) return false;
    const FactorMatrix lower = llt.matrixL();
    if (!(lower.diagonal().minCoeff() > 0) || !std::isfinite(lower.sum())) return false;
    a.block(k, k, width, width) = lower;
    each_block(rest, n, [&](int64_t row, int64_t count) {
      auto panel = a.block(row, k, count, width);
      lower.triangularView<Eigen::Lower>().transpose().solveInPlace<Eigen::OnTheRight>(panel);
    });
    each_block(rest, n, [&](int64_t row, int64_t count) {
      a.block(row, rest, count, row + count - rest).noalias() -=
          a.block(row, k, count, width) * a.block(rest, k, row + count - rest, width).transpose();
    });
  }
  return true;
}

/// The inverse of lower triangular L; its column blocks are independent.
FactorMatrix inverse_of_lower(const FactorMatrix& lower) {
  const int64_t n = lower.rows();
  FactorMatrix inverse = FactorMatrix::Zero(n, n);
  each_block(0, n, [&](int64_t column, int64_t width) {
    FactorMatrix solution = FactorMatrix::Zero(n - column, width);
    solution.topRows(width).setIdentity();
    lower.bottomRightCorner(n - column, n - column).triangularView<Eigen::Lower>().solveInPlace(solution);
    inverse.block(column, column, n - column, width) = solution;
  });
  return inverse;
}

}  // namespace

std::shared_ptr<const HessianFactor> hessian_factor(std::span<const float> hessian, int64_t columns, const FactorOptions& options) {
  OVERPROOF_CHECK(int64_t(hessian.size()) == columns * columns);
  fix_cache_sizes();
  auto factor = std::make_shared<HessianFactor>();
  factor->columns = columns;
  const auto diagonal = [&](int64_t i) { return double(hessian[size_t(i * columns + i)]); };
  double mean = 0;
  for (int64_t i = 0; i < columns; ++i) mean += diagonal(i) / double(columns);
  if (!(mean > 0) || !std::isfinite(mean)) return nullptr;
  std::vector<int32_t> order(static_cast<size_t>(columns));
  std::iota(order.begin(), order.end(), 0);
  if (options.act_order) {
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return diagonal(a) > diagonal(b); });
    factor->order = order;
  }
  // Element (i, j) of the reversed matrix is (n - 1 - i, n - 1 - j) of H; its lower factor, reversed back, is R.
  FactorMatrix work;
  for (double dampening = options.dampening;; dampening = std::max(dampening * 10, 1e-6)) {
    if (dampening > std::max(1.0, options.dampening)) return nullptr;
    factor->damping = dampening * mean;
    work.resize(columns, columns);
    each_block(0, columns, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) {
        const float* row = hessian.data() + int64_t(order[size_t(columns - 1 - i)]) * columns;
        for (int64_t j = 0; j < columns; ++j) work(i, j) = row[order[size_t(columns - 1 - j)]];
        work(i, i) += factor->damping;
      }
    });
    if (cholesky(work)) break;
  }
  const FactorMatrix inverse = inverse_of_lower(work);
  factor->upper.assign(size_t(columns * columns), 0.0f);
  factor->diagonal.resize(size_t(columns));
  each_block(0, columns, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t from = columns - 1 - i;
      const double pivot = inverse(from, from);
      factor->diagonal[size_t(i)] = float(pivot);
      for (int64_t j = i; j < columns; ++j)
        factor->upper[size_t(i * columns + j)] = float(inverse(from, columns - 1 - j) / pivot);
    }
  });
  return factor;
}

}  // namespace overproof
