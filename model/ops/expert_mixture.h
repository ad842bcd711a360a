#pragma once
// The routed part of a mixture-of-experts layer. As DeepSeek-V3 and GLM-4.5 define it (DeepSeek-AI 2024, eq. 12-16): sigmoid scores,
// selection by score plus a balancing bias that has no part in the weights. As Mixtral, Qwen and Granite do: softmax scores. linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

#include "formats/model_config.h"

namespace overproof::ops {

struct Routing {
  at::Tensor selected;  ///< I32 [tokens, k], ascending ids
  at::Tensor weights;   ///< [tokens, k], differentiable with respect to x and the router
  at::Tensor scores;    ///< [tokens, experts], x @ router^T before the sigmoid or softmax; no gradient
  at::Tensor recorded_scores;  ///< the same tensor, differentiable
};

/// weights = routed_scaling_factor x sigmoid(x @ router^T) at the k experts with the largest sigmoid + bias; equal sums go to
/// the lower id. With norm_topk_prob the k weights are divided by their sum first. With ExpertScores::softmax the scores are softmax(x @ router^T),
/// and `bias` may be undefined. Of several expert_groups only the best used_groups are searched. x [tokens, hidden], router [experts,
/// hidden], bias [experts]; scores and weights have the router's type.
Routing route(const at::Tensor& x, const at::Tensor& router, const at::Tensor& bias, int64_t k, const ModelConfig& config);

/// The same from z = x @ router^T [tokens, experts], which becomes `scores`.
Routing route_scores(const at::Tensor& z, const at::Tensor& bias, int64_t k, const ModelConfig& config);

/// The k largest of scores + bias in each row, I32 [tokens, k] as ascending ids; equal sums go to the lower id, NaN counts as the
/// smallest. scores [tokens, experts], bias [experts]. Not differentiable.
at::Tensor select_experts(const at::Tensor& scores, const at::Tensor& bias, int64_t k);

/// sigmoid(z), of which each number depends on that number of z alone, not on its place. Not differentiable.
at::Tensor router_scores(const at::Tensor& z);

/// The weights that route() gives `selected` I32 [tokens, k]; z [tokens, experts]. Differentiable with respect to z.
at::Tensor expert_weights(const at::Tensor& z, const at::Tensor& selected, const ModelConfig& config);

/// I64 [experts]: how many tokens chose each expert. selected I32 [tokens, k].
at::Tensor expert_load(const at::Tensor& selected, int64_t experts);

/// I64 [rows]: which pairs (token x k + slot) chose `expert`, ascending. selected I32 [tokens, k].
at::Tensor pairs_of_expert(const at::Tensor& selected, int64_t expert);

/// base + sum over the chosen experts, in ascending order, of weight x expert(x). expert_gate_up [experts, 2 x width, hidden],
/// expert_down [experts, hidden, width]. In the CPU form rows are sorted by expert, so each expert is one product over its rows;
/// it saves x, the weights and the experts' gate and up values, and writes gradients of experts into slices of one tensor.
at::Tensor expert_mixture(const at::Tensor& x, const at::Tensor& base, const Routing& routing, const at::Tensor& expert_gate_up,
                          const at::Tensor& expert_down);

namespace cpu {
decltype(ops::select_experts) select_experts;
decltype(ops::router_scores) router_scores;
decltype(ops::expert_weights) expert_weights;
decltype(ops::expert_load) expert_load;
decltype(ops::expert_mixture) expert_mixture;
}  // namespace cpu

namespace aten {
decltype(ops::select_experts) select_experts;
decltype(ops::router_scores) router_scores;
decltype(ops::expert_weights) expert_weights;
decltype(ops::expert_load) expert_load;
decltype(ops::expert_mixture) expert_mixture;
}  // namespace aten

}  // namespace overproof::ops
