#include "model/ops/row_matrix.h"

#include <ATen/ATen.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>

namespace overproof::ops {

using at::Tensor;

int64_t RowMatrix::bytes() const {
  int64_t total = 0;
  for (const Tensor* t : {&values, &scales, &offsets})
    if (t->defined()) total += int64_t(t->nbytes());
  return total;
}

std::string RowMatrix::form() const {
  if (has_codes()) return block >= columns() ? "int8" : fmt::format("int8 in blocks of {}", block);
  return values.scalar_type() == at::kFloat      ? "f32"
         : values.scalar_type() == at::kBFloat16 ? "bf16"
         : values.scalar_type() == at::kHalf     ? "f16"
                                                 : "f64";
}

Tensor RowMatrix::row_values(const Tensor& ids) const {
  const Tensor rows = values.index_select(0, ids);
  if (!has_codes()) return values.is_cpu() && values.element_size() < 4 ? rows.to(at::kFloat) : rows;
  const auto spread = [&](const Tensor& factors) {
    return factors.index_select(0, ids).repeat_interleave(block, 1).narrow(1, 0, columns());
  };
  Tensor out = rows.to(at::kFloat).mul_(spread(scales));
  return offsets.defined() ? out.add_(spread(offsets)) : out;
}

}  // namespace overproof::ops
