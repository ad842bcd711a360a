#include "quantize/calibration/gptq.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/products.h"
#include "quantize/kernels/int8.h"

namespace overproof {
namespace {

/// Columns of a block. Errors are propagated column by column within a block, and to the rest of the row as one product.
constexpr int64_t kColumnBlock = 64;
/// Rows that are rounded together, so that the factor is read from memory less often.
constexpr int64_t kColumnRows = 32;

class GptqRows final : public RowQuantizer {
 public:
  GptqRows(int64_t columns, int64_t row_bytes, uint8_t flip, std::unique_ptr<RowQuantizer> inner,
           std::shared_ptr<const HessianFactor> factor)
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
  std::shared_ptr<const HessianFactor> factor_;
};

}  // namespace

double gptq_rows(const HessianFactor& factor, std::span<float> x, std::span<const float> scales, int64_t rows,
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
                                             std::shared_ptr<const HessianFactor> factor) {
  const std::optional<Int8Layout> layout = scheme.int8_layout();
  const int64_t columns = weight.shape[1];
  OVERPROOF_CHECK(layout && factor->columns == columns);
  return std::make_unique<GptqRows>(columns, scheme.row_bytes(columns), layout->flip, std::move(inner), std::move(factor));
}

}  // namespace overproof
