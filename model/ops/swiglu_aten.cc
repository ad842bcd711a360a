#include <ATen/ATen.h>

#include "model/ops/swiglu.h"

namespace overproof::ops::aten {

using at::Tensor;

Tensor swiglu(const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  const Tensor y = at::matmul(aten::swiglu(at::matmul(x, gate_up.t())), down.t());
  return residual.defined() ? residual + y : y;
}

}  // namespace overproof::ops::aten
