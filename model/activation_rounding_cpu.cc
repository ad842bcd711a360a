#include <ATen/ATen.h>

#include "model/activation_rounding.h"
#include "model/placement.h"

namespace overproof {

at::Tensor rounded(const std::optional<ActivationRounding>& rounding, const at::Tensor& x) {
  if (!rounding) return x;
  // The grid is defined in f32; a tensor of another device or type makes a round trip.
  const at::Tensor copy = x.detach().to(Placement{}.options(), /*non_blocking=*/false, /*copy=*/true).contiguous();
  const int64_t columns = copy.size(-1);
  rounding->apply(copy.mutable_data_ptr<float>(), copy.numel() / columns, columns);
  return copy.to(placement_of(x).options());
}

}  // namespace overproof
