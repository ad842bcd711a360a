#pragma once
// Ridge regression of a layer's output on features that come in blocks of columns, each of which is zero outside of some rows: the
// shared and the routed experts of a mixture. Only sums over the rows are kept, so memory does not depend on their number.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace overproof {

/// The columns of one block, where they are not zero.
struct FeatureBlock {
  at::Tensor values;  ///< f32 [n, width]
  at::Tensor rows;    ///< I64 [n], ascending: the rows of the batch that the values belong to; undefined: all of them
};

/// Solves min_D sum_rows ||residual - features D||^2 + sum_j penalty_j ||D_j||^2, the change D of a linear map that left `residual`.
///
/// add() is a product of every two blocks over the rows that they share, f32 within a batch, f64 between batches: 2 x n x F^2 / 2
/// operations at most for F features in all, and much fewer where blocks are sparse. solve() is a Cholesky factorisation in f64, F^3 / 3
/// operations. Neither depends on the number of threads.
class RidgeSystem {
 public:
  /// `widths`: columns of each block.
  RidgeSystem(std::vector<int64_t> widths, int64_t outputs);

  /// A batch of rows. `residual` f32 [n, outputs].
  void add(const std::vector<FeatureBlock>& blocks, const at::Tensor& residual);

  /// Rows in which the block was not zero.
  int64_t rows(size_t block) const { return rows_[block]; }
  /// Sum of squares of all residuals.
  double square() const { return square_; }

  struct Solution {
    at::Tensor change;  ///< f64 [F, outputs]; zero for a block that is kept
    double square = 0;  ///< sum of squares of the residuals with the change; never more than square(), except by rounding
    std::vector<size_t> kept;  ///< blocks with fewer rows than the minimum
    int64_t steps = 0;         ///< of conjugate gradients; 0 where the system was factorised
  };
  /// The penalty of every feature is `ridge` x the mean diagonal of the Gram matrix. Throws DivergenceError when that is singular in f64.
  /// free: Bool [F, outputs], the weights that may change; undefined: all. Each output then has a system of its own, and all are solved together
  /// by conjugate gradients with the diagonal as preconditioner, in f32 products of the Gram matrix: F^2 x outputs x 2 operations a step, until every
  /// residual is 1e-4 of the right side, at most 300 steps. Each step lowers the squared error.
  Solution solve(double ridge, int64_t least_rows, const at::Tensor& free = {}) const;
  /// The blocks that solve() leaves alone.
  bool is_kept(size_t block, int64_t least_rows) const { return rows_[block] < std::max<int64_t>(1, least_rows); }

 private:
  std::vector<int64_t> first_;  // [blocks + 1]: columns of block b are [first_[b], first_[b + 1])
  std::vector<int64_t> rows_;
  at::Tensor gram_;   // f64 [F, F], blocks on and above the diagonal
  at::Tensor right_;  // f64 [F, outputs], features^T residual
  double square_ = 0;
};

}  // namespace overproof
