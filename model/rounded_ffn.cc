#include "model/rounded_ffn.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "model/functions.h"
#include "model/row_kernels.h"

namespace overproof {

using at::Tensor;

FfnPass rounded_feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const FfnRounding& rounding) {
  const int64_t tokens = x.size(0), width = down.size(1);
  FfnPass pass{at::empty({tokens, width}, x.options()), at::empty({tokens, down.size(0)}, x.options())};
  const Tensor z = at::empty({tokens, 2 * width}, x.options());
  if (rounding.gate == rounding.up) {
    nn::matmul_into(z, rounded(rounding.gate, x), gate_up.t());
  } else {
    nn::matmul_into(z.narrow(1, 0, width), rounded(rounding.gate, x), gate_up.narrow(0, 0, width).t());
    nn::matmul_into(z.narrow(1, width, width), rounded(rounding.up, x), gate_up.narrow(0, width, width).t());
  }
  kernels::swiglu(z.const_data_ptr<float>(), nullptr, pass.activation.data_ptr<float>(), tokens, width);
  nn::matmul_into(pass.out, rounded(rounding.down, pass.activation), down.t());
  return pass;
}

Tensor pairs_of_expert(const Tensor& selected, int64_t expert) { return selected.reshape({-1}).eq(expert).nonzero().squeeze(1); }

Tensor rounded_mixture(const Tensor& x, const Tensor& base, const Routing& routing, const Tensor& expert_gate_up,
                       const Tensor& expert_down, const std::vector<FfnRounding>& rounding) {
  const int64_t experts = expert_down.size(0), k = routing.selected.size(1);
  OVERPROOF_CHECK(rounding.empty() || int64_t(rounding.size()) == experts);
  const Tensor weights = routing.weights.reshape({-1});
  Tensor out = base.clone();
  for (int64_t e = 0; e < experts; ++e) {  // ascending, so that each token's sum has one order
    const Tensor pairs = pairs_of_expert(routing.selected, e);
    if (pairs.numel() == 0) continue;
    const Tensor tokens = pairs.div(k, "floor");
    const FfnPass pass = rounded_feed_forward(x.index_select(0, tokens), expert_gate_up[e], expert_down[e],
                                              rounding.empty() ? FfnRounding() : rounding[size_t(e)]);
    out.index_add_(0, tokens, pass.out.mul_(weights.index_select(0, pairs).unsqueeze(1)));  // a token is there once at most
  }
  return out;
}

}  // namespace overproof
