#include <ATen/ATen.h>

#include <limits>

#include "model/ops/expert_mixture.h"
#include "model/ops/swiglu.h"

namespace overproof::ops::aten {

using at::Tensor;

Tensor select_experts(const Tensor& scores, const Tensor& bias, int64_t k) {
  Tensor choice = scores + bias;
  choice = choice.masked_fill(choice.isnan(), -std::numeric_limits<double>::infinity());
  const Tensor best = std::get<1>(at::sort(choice, /*stable=*/true, 1, /*descending=*/true)).narrow(1, 0, k);
  return std::get<0>(best.sort(1)).to(at::kInt);
}

Tensor router_scores(const Tensor& z) { return z.detach().sigmoid(); }

Tensor expert_weights(const Tensor& z, const Tensor& selected, const ModelConfig& config) {
  Tensor weights = z.gather(1, selected.to(at::kLong)).sigmoid();
  if (config.norm_topk_prob) weights = weights / (weights.sum(1, true) + 1e-20);
  return weights * config.routed_scaling_factor;
}

Tensor expert_load(const Tensor& selected, int64_t experts) {
  return selected.reshape({-1, 1}).eq(at::arange(experts, selected.options())).sum(0);
}

Tensor expert_mixture(const Tensor& x, const Tensor& base, const Routing& routing, const Tensor& expert_gate_up,
                      const Tensor& expert_down) {
  const int64_t experts = expert_down.size(0), k = routing.selected.size(1);
  const Tensor weights = routing.weights.reshape({-1});
  const auto gate_up = expert_gate_up.unbind(0), down = expert_down.unbind(0);
  Tensor out = base;
  for (int64_t e = 0; e < experts; ++e) {  // ascending, so that each token's sum has one order
    const Tensor pairs = pairs_of_expert(routing.selected, e);
    if (pairs.numel() == 0) continue;
    const Tensor tokens = pairs.div(k, "floor");
    const Tensor y = aten::feed_forward(x.index_select(0, tokens), gate_up[size_t(e)], down[size_t(e)], {});
    out = out.index_add(0, tokens, y * weights.index_select(0, pairs).unsqueeze(1).to(y.scalar_type()));
  }
  return out;
}

}  // namespace overproof::ops::aten
