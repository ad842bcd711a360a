#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "distill/calibration.h"

namespace overproof {

double routing_overlap(const at::Tensor& a, const at::Tensor& b) {
  OVERPROOF_CHECK(a.sizes() == b.sizes());
  const int64_t tokens = a.size(0), k = a.size(1);
  const int32_t *left = a.const_data_ptr<int32_t>(), *right = b.const_data_ptr<int32_t>();
  double sum = 0;
  std::vector<int32_t> both;
  for (int64_t t = 0; t < tokens; ++t, left += k, right += k) {
    both.clear();
    std::set_intersection(left, left + k, right, right + k, std::back_inserter(both));
    sum += double(both.size()) / double(2 * k - int64_t(both.size()));
  }
  return tokens > 0 ? sum / double(tokens) : 1.0;
}

}  // namespace overproof
