#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "model/ops/attention.h"
#include "model/placement.h"

namespace overproof::ops::aten {

using at::Tensor;

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double cap) {
  const int64_t queries = q.size(2), keys = k.size(2), group = q.size(1) / k.size(1);
  const Tensor all_k = group == 1 ? k : k.repeat_interleave(group, 1), all_v = group == 1 ? v : v.repeat_interleave(group, 1);
  const Tensor hidden = mask.defined() ? mask.to(q.device()).logical_not() : at::ones({queries, keys}, q.options().dtype(at::kBool)).triu(keys - queries + 1);
  Tensor scores = at::matmul(q, all_k.transpose(2, 3)).to(wide_type(q.scalar_type())) / std::sqrt(double(q.size(3)));
  if (cap > 0) scores = at::tanh(scores / cap) * cap;
  const Tensor weights = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
  return at::matmul(weights.to(v.scalar_type()), all_v);
}

}  // namespace overproof::ops::aten
