#include <ATen/ATen.h>

#include "model/ops/attention.h"
#include "model/ops/linear.h"
#include "model/ops/row_products.h"

namespace overproof::ops::aten {

using at::Tensor;

void row_products(std::span<const RowProduct> products) {
  for (const RowProduct& p : products) {
    const Tensor weight = p.weight->row_values(at::arange(p.weight->rows(), p.weight->values.options().dtype(at::kLong)))
                              .to(p.x.scalar_type());
    for (int64_t i = 0; i < p.rows; ++i)  // one by one: a product of several rows may sum in another order
      p.out.narrow(0, p.first + i, 1).narrow(1, p.column, p.weight->rows()).copy_(aten::linear(p.x.narrow(0, p.x_first + i, 1), weight, {}, {}));
  }
}

void store_positions(const Tensor& rows, const std::vector<Tensor>& caches, std::span<const int64_t> lengths) {
  for (size_t i = 0; i < caches.size(); ++i) caches[i].select(1, lengths[i]).copy_(rows[int64_t(i)]);
}

Tensor row_attention(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                     std::span<const int64_t> lengths, std::span<const int64_t> begins, double cap) {
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < q.size(0); ++i) {
    const int64_t begin = begins.empty() ? 0 : begins[size_t(i)];
    const auto seen = [&](const std::vector<Tensor>& of) { return of[size_t(i)].narrow(1, begin, lengths[size_t(i)] - begin).unsqueeze(0); };
    rows.push_back(aten::attention(q.narrow(0, i, 1).unsqueeze(2), seen(keys), seen(values), {}, cap).reshape({1, -1}));
  }
  return at::cat(rows);
}

void add_weighted_rows(const Tensor& out, const Tensor& rows, const Tensor& weights, std::span<const int64_t> to) {
  const Tensor weighted = rows * weights.unsqueeze(1);
  for (size_t j = 0; j < to.size(); ++j) out[to[j]].add_(weighted[int64_t(j)]);
}

}  // namespace overproof::ops::aten
