#include <ATen/ATen.h>

#include "model/ops/rotary.h"

namespace overproof::ops::aten {

at::Tensor rotate_positions(const at::Tensor& x, const RotaryAngles& angles) {
  const at::Tensor cos = angles.cos.to(x.scalar_type()).unsqueeze(1), sin = angles.sin.to(x.scalar_type()).unsqueeze(1);
  const auto half = x.view({-1, cos.size(0), x.size(1), x.size(2)}).chunk(2, -1);
  return at::cat({half[0] * cos - half[1] * sin, half[1] * cos + half[0] * sin}, -1).view(x.sizes());
}

}  // namespace overproof::ops::aten
