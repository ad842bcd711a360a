#include <ATen/ATen.h>

#include "model/ops/attention.h"
#include "model/ops/linear.h"
#include "model/ops/row_products.h"

namespace overproof::ops::aten {

using at::Tensor;

Tensor row_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  std::vector<Tensor> rows;  // one by one: a product of several rows may sum in another order
  for (int64_t i = 0; i < x.size(0); ++i)
    rows.push_back(aten::linear(x.narrow(0, i, 1), weight, bias, residual.defined() ? residual.narrow(0, i, 1) : residual));
  return at::cat(rows);
}

Tensor row_attention(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values) {
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < q.size(0); ++i)
    rows.push_back(aten::attention(q.narrow(0, i, 1).unsqueeze(2), keys[size_t(i)].unsqueeze(0), values[size_t(i)].unsqueeze(0))
                       .reshape({1, -1}));
  return at::cat(rows);
}

}  // namespace overproof::ops::aten
