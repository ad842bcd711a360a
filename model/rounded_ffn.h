#pragma once
// Feed-forward blocks in separate steps, for models whose inputs are rounded and for those who look at what a Linear is given.
// Inference only: nothing here has a gradient.

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/activation_rounding.h"
#include "model/moe.h"

namespace overproof {

struct FfnPass {
  at::Tensor activation;  ///< silu(gate) * up before its rounding: what down_proj is given, [tokens, width]
  at::Tensor out;         ///< [tokens, hidden], without residual; fresh memory
};

/// x [tokens, hidden]; gate_up [2 x width, hidden], gate first; down [hidden, width].
FfnPass rounded_feed_forward(const at::Tensor& x, const at::Tensor& gate_up, const at::Tensor& down, const FfnRounding& rounding);

/// base + sum over the chosen experts of weight x expert(x), as expert_mixture, each expert with its own rounding.
/// rounding [experts], or empty.
at::Tensor rounded_mixture(const at::Tensor& x, const at::Tensor& base, const Routing& routing, const at::Tensor& expert_gate_up,
                           const at::Tensor& expert_down, const std::vector<FfnRounding>& rounding);

/// I64 [rows]: which pairs (token x k + slot) chose `expert`, ascending.
at::Tensor pairs_of_expert(const at::Tensor& selected, int64_t expert);

}  // namespace overproof
