#pragma once
// First-order importance of FFN neurons: LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), its element-wise criterion without the second-order
// term, summed over the weights of a coupled structure. The structure here is a neuron: its rows of gate_proj and up_proj and
// its column of down_proj.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "core/progress.h"
#include "model/layer_stream.h"
#include "model/sample_windows.h"

namespace overproof {

/// sum over the neuron's weights w of |w dL/dw|, for each layer f32 [ff]. L is the mean cross-entropy of the next token over the windows, within
/// segments. A backward pass layer by layer: input(l), f32 [tokens, hidden], is the residual stream before layer l, and for l = layers that
/// after the last one. In memory: one layer with its gradients, two streams, one batch's graph, the head.
std::vector<std::vector<float>> neuron_gradients(LayerStream& model, const SampledWindows& windows, int64_t batch_size,
                                                 const std::function<at::Tensor(int64_t layer)>& input, Progress& progress);

}  // namespace overproof
