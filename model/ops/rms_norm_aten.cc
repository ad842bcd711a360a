#include <ATen/ATen.h>

#include "model/ops/rms_norm.h"
#include "model/placement.h"

namespace overproof::ops::aten {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, std::optional<at::ScalarType> out) {
  const at::Tensor wide = x.to(wide_type(x.scalar_type()));
  return (weight * (wide * (wide.pow(2).mean(-1, true) + eps).rsqrt()).to(x.scalar_type())).to(out.value_or(x.scalar_type()));
}

}  // namespace overproof::ops::aten
