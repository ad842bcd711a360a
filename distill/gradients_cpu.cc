#include <ATen/ATen.h>

#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "distill/gradients.h"

namespace overproof {

double square_sum(const at::Tensor& tensor) {
  constexpr int64_t kPiece = 1 << 16;
  const int64_t n = tensor.numel();
  const float* values = tensor.const_data_ptr<float>();
  std::vector<double> sums(static_cast<size_t>((n + kPiece - 1) / kPiece));
  parallel_for(n, kPiece, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += double(values[i]) * double(values[i]);
    sums[size_t(begin / kPiece)] = sum;
  });
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

void all_reduce(const Group& group, at::Tensor& tensor) {
  OVERPROOF_CHECK(tensor.is_contiguous());
  const auto n = size_t(tensor.numel());
  if (tensor.scalar_type() == at::kLong) group.all_reduce(std::span(tensor.mutable_data_ptr<int64_t>(), n));
  else group.all_reduce(std::span(tensor.mutable_data_ptr<float>(), n));
}

}  // namespace overproof
