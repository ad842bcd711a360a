#pragma once
// Ways to distribute the neurons of a dense FFN over shared and routed experts that were published elsewhere, as baselines of carve.h.
//
//   random        neurons drawn at random, the shared ones too (LLaMA-MoE's independent random split, Zhu et al. 2024, arXiv 2406.16554)
//   order         blocks in the order of the checkpoint, the first ones shared
//   cmoe          CMoE (Pei et al. 2025, arXiv 2502.04416): shared are the neurons that are most often among the `active` largest |h| of a token;
//                 the others are clustered by the tokens at which they are (balanced k-means, Euclidean, from the most frequent ones). Its router
//                 scores an expert by |h| of one neuron, the one nearest to the centre of its cluster
//   expertweaver  ExpertWeaver (Zhao et al. 2026, arXiv 2602.15521): shared are the neurons with the largest mean |silu(gate)|; the others are
//                 clustered by their means over each window. Its router is the mean gate vector of an expert. The paper gives each layer a number
//                 of shared experts by the share of neurons whose coefficient of variation over the windows is above tau; glm4_moe has one number
//                 for all layers, so that share is recorded, and the number is the user's
//
// glm4_moe has a linear router. CMoE's scores are no linear function of the input, so its gate is their linear regression, and what its own
// router would choose is measured next to it.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "student/carve_method.h"

namespace overproof {

struct SplitOptions {
  int64_t experts = 1, shared = 0;  ///< (experts + shared) divides ff
  int64_t iterations = 20;          ///< of k-means
  int64_t active = 10;              ///< cmoe: neurons of a token that count as active
  int64_t window = 1;               ///< expertweaver: tokens of a window
  uint64_t seed = 0, layer = 0;
};

struct NeuronSplit {
  at::Tensor neurons;  ///< I64 [ff]: the shared experts' neurons, then each routed expert's, ascending in each
  at::Tensor representatives;  ///< I64 [experts]: its router scores experts by |h| of these neurons; undefined where it has none, or a linear one
  at::Tensor gate;  ///< f32 [experts, hidden]: its linear router; undefined where it has none
  double specialised = -1;  ///< expertweaver: share of neurons with a coefficient of variation above kSpecialised
};

/// tau of ExpertWeaver.
inline constexpr double kSpecialised = 0.6;

/// gate_up [2 x ff, hidden]; input f32 [tokens, hidden]; activations f32 [tokens, ff] (neuron_activations). Not for CarveMethod::clusters.
NeuronSplit split_neurons(CarveMethod method, const at::Tensor& gate_up, const at::Tensor& input, const at::Tensor& activations,
                          const SplitOptions& options);

/// cmoe: 1 where a neuron is among the `active` largest |h| of the token, f32 [tokens, ff].
at::Tensor activation_markers(const at::Tensor& activations, int64_t active);
/// expertweaver: mean |silu(gate)| of each neuron over each whole window, f32 [windows, ff].
at::Tensor gate_profiles(const at::Tensor& gate_up, const at::Tensor& input, int64_t window);
/// Standard deviation over mean of each column, f32 [columns].
at::Tensor coefficient_of_variation(const at::Tensor& profiles);

}  // namespace overproof
