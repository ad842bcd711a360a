#include <ATen/ATen.h>

#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"

namespace overproof::ops::aten {

using at::Tensor;

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  const Tensor y = at::linear(x, weight, if_defined(bias));
  return residual.defined() ? residual + y : y;
}

void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  Tensor target = out;
  if (accumulate) {
    target.addmm_(a, b);
  } else {
    at::mm_out(target, a, b);
  }
}

}  // namespace overproof::ops::aten
