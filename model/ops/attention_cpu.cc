// libtorch's fused attention for the CPU, which never has a whole [new, length] matrix of scores in memory.
#include <ATen/ATen.h>

#include "model/ops/attention.h"

namespace overproof::ops::cpu {

using at::Tensor;

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& given) {
  const int64_t queries = q.size(2), past = k.size(2) - queries;
  // libtorch's own causal mask would put the first query at the position of the first key.
  std::optional<Tensor> mask;
  if (given.defined()) mask = given;
  else if (past > 0 && queries > 1) mask = at::ones({queries, k.size(2)}, q.options().dtype(at::kBool)).tril(past);
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, /*is_causal=*/!mask && queries > 1, std::nullopt,
                                          /*enable_gqa=*/q.size(1) != k.size(1));
}

}  // namespace overproof::ops::cpu
