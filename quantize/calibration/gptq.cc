#include "quantize/calibration/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "core/error.h"
#include "core/parallel.h"
#include "quantize/calibration/products.h"
#include "quantize/kernels/int8.h"

namespace overproof {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Columns of a block. Errors are propagated column by column within a block, and to the rest of the row as one product.
constexpr int64_t kColumnBlock = 64;
/// Rows that are rounded together, so that the factor is read from memory less often.
constexpr int64_t kColumnRows = 32;

/// Eigen splits sums by the cache sizes of this machine unless they are set: the result would depend on the processor.
void fix_cache_sizes() {
  static const bool done = [] {
    Eigen::setCpuCacheSizes(32 << 10, 256 << 10, 2 << 20);
    return true;
  }();
  (void)done;
}

/// Calls body(first, count) for pieces of [begin, end) of kColumnBlock rows or columns, in parallel.
template <class Body>
void each_block(int64_t begin, int64_t end, const Body& body) {
  parallel_for(end - begin, kColumnBlock, [&](int64_t first, int64_t last) { body(begin + first, last - first); });
}

/// Replaces a's lower triangle by L with L L^T = a; false when a is not positive definite.
bool cholesky(Matrix& a) {
  const int64_t n = a.rows();
  for (int64_t k = 0; k < n; k += kColumnBlock) {
    const int64_t width = std::min(kColumnBlock, n - k), rest = k + width;
    const Matrix diagonal = a.block(k, k, width, width);
    const Eigen::LLT<Matrix> llt(diagonal);
    if (llt.info() != Eigen::Success) return false;
    const Matrix lower = llt.matrixL();
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
Matrix inverse_of_lower(const Matrix& lower) {
  const int64_t n = lower.rows();
  Matrix inverse = Matrix::Zero(n, n);
  each_block(0, n, [&](int64_t column, int64_t width) {
    Matrix solution = Matrix::Zero(n - column, width);
    solution.topRows(width).setIdentity();
    lower.bottomRightCorner(n - column, n - column).triangularView<Eigen::Lower>().solveInPlace(solution);
    inverse.block(column, column, n - column, width) = solution;
  });
  return inverse;
}

class GptqRows final : public RowQuantizer {
 public:
  GptqRows(int64_t columns, int64_t row_bytes, uint8_t flip, std::unique_ptr<RowQuantizer> inner,
           std::shared_ptr<const GptqFactor> factor)
      : columns_(columns), row_bytes_(row_bytes), flip_(flip), inner_(std::move(inner)), factor_(std::move(factor)) {}

  RowsResult quantize(int64_t first_row, int64_t rows, std::span<float> x, std::span<uint8_t> bytes,
                      std::span<float> scales) const override {
    std::vector<float> before(x.begin(), x.end());
    RowsResult result = inner_->quantize(first_row, rows, x, bytes, scales);  // sets scales, padding and the signal of the error
    if (result.bad_row >= 0) return result;
    std::vector<float> after = before;
    std::vector<int8_t> codes(before.size());
    gptq_rows(*factor_, after, scales, rows, codes);
    result.error.noise = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      const double error = double(before[i]) - after[i];
      result.error.noise += error * error;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns_; ++c) bytes[size_t(r * row_bytes_ + c)] = uint8_t(codes[size_t(r * columns_ + c)]) ^ flip_;
    return result;
  }
  std::vector<uint8_t> side_output(int which, std::span<const float> scales) const override {
    return inner_->side_output(which, scales);
  }

 private:
  int64_t columns_, row_bytes_;
  uint8_t flip_;
  std::unique_ptr<RowQuantizer> inner_;
  std::shared_ptr<const GptqFactor> factor_;
};

}  // namespace

std::shared_ptr<const GptqFactor> gptq_factor(std::span<const float> hessian, int64_t columns, const GptqOptions& options) {
  OVERPROOF_CHECK(int64_t(hessian.size()) == columns * columns);
  fix_cache_sizes();
  auto factor = std::make_shared<GptqFactor>();
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
  Matrix work;
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
  const Matrix inverse = inverse_of_lower(work);
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

double gptq_rows(const GptqFactor& factor, std::span<float> x, std::span<const float> scales, int64_t rows,
                 std::span<int8_t> codes) {
  const int64_t n = factor.columns;
  OVERPROOF_CHECK(int64_t(x.size()) == rows * n && codes.size() == x.size() && rows > 0 && int64_t(scales.size()) % rows == 0);
  const int64_t groups = int64_t(scales.size()) / rows, group = (n + groups - 1) / groups;
  const auto column_of = [&](int64_t i) { return factor.order.empty() ? i : int64_t(factor.order[size_t(i)]); };
  // Rows in the factor's order of columns, and the errors of one block.
  std::vector<float> w(size_t(std::min(rows, kColumnRows) * n)), errors(size_t(kColumnRows * kColumnBlock));
  double loss = 0;
  for (int64_t begin = 0; begin < rows; begin += kColumnRows) {
    const int64_t count = std::min(kColumnRows, rows - begin);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t i = 0; i < n; ++i) w[size_t(r * n + i)] = x[size_t((begin + r) * n + column_of(i))];
    for (int64_t block = 0; block < n; block += kColumnBlock) {
      const int64_t stop = std::min(block + kColumnBlock, n);
      for (int64_t r = 0; r < count; ++r) {
        float* row = w.data() + r * n;
        for (int64_t i = block; i < stop; ++i) {
          const int64_t column = column_of(i);
          const float scale = scales[size_t((begin + r) * groups + column / group)];
          const int8_t code = int8_code(row[i], scale);
          const float value = int8_value(code, scale), error = row[i] - value;
          codes[size_t((begin + r) * n + column)] = code;
          x[size_t((begin + r) * n + column)] = value;
          errors[size_t(r * kColumnBlock + i - block)] = error;
          const double scaled = double(error) / factor.diagonal[size_t(i)];
          loss += scaled * scaled;
          const float* upper = factor.upper.data() + i * n;
          for (int64_t j = i + 1; j < stop; ++j) row[j] -= error * upper[j];
        }
      }
      if (stop < n)
        subtract_product(w.data() + stop, n, errors.data(), kColumnBlock, factor.upper.data() + block * n + stop, n, count,
                         n - stop, stop - block);
    }
  }
  return loss;
}

std::unique_ptr<RowQuantizer> gptq_quantizer(const Scheme& scheme, const TensorInfo& weight, std::unique_ptr<RowQuantizer> inner,
                                             std::shared_ptr<const GptqFactor> factor) {
  const std::optional<Int8Layout> layout = scheme.int8_layout();
  const int64_t columns = weight.shape[1];
  OVERPROOF_CHECK(layout && factor->columns == columns);
  return std::make_unique<GptqRows>(columns, scheme.row_bytes(columns), layout->flip, std::move(inner), std::move(factor));
}

}  // namespace overproof
