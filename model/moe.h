#pragma once
// The routed part of a mixture-of-experts layer, as DeepSeek-V3 and GLM-4.5 define it (DeepSeek-AI 2024, eq. 12-16):
// sigmoid scores, selection by score plus a balancing bias that has no part in the weights.

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/decoder.h"

namespace overproof {

struct Routing {
  at::Tensor selected;  ///< I32 [tokens, k], ascending ids
  at::Tensor weights;   ///< f32 [tokens, k], differentiable with respect to x and the router
};

/// weights = routed_scaling_factor x sigmoid(x @ router^T) at the k experts with the largest sigmoid + bias; equal
/// sums go to the lower id. With norm_topk_prob the k weights are divided by their sum first.
Routing route(const at::Tensor& x, const at::Tensor& router, const at::Tensor& bias, int64_t k, const ModelConfig& config);

/// I64 [experts]: how many tokens chose each expert.
at::Tensor expert_load(const at::Tensor& selected, int64_t experts);

/// base + sum over the chosen experts, in ascending order, of weight x expert(x). expert_gate_up [experts, 2 x width, hidden],
/// expert_down [experts, hidden, width]. Rows are sorted by expert, so each expert is one product over its rows;
/// saves x, the weights and the experts' gate and up values. Gradients of experts are written into slices of one tensor.
at::Tensor expert_mixture(const at::Tensor& x, const at::Tensor& base, const Routing& routing, const at::Tensor& expert_gate_up,
                          const at::Tensor& expert_down);

}  // namespace overproof
