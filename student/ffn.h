#pragma once
// The dense SwiGLU feed-forward layer taken apart into neurons: y = sum_j h_j down[:, j], h = silu(gate x) * (up x).

#include <ATen/core/Tensor.h>

#include "model/decoder.h"

namespace overproof {

/// h for each token and neuron. gate_up [2 x ff, hidden] (gate rows, then up rows), input [tokens, hidden] -> [tokens, ff].
at::Tensor neuron_activations(const at::Tensor& gate_up, const at::Tensor& input);

/// What each neuron adds to the residual stream, in length: |h_j| x ||down[:, j]||, [tokens, ff]. Overwrites `activations`.
at::Tensor neuron_contributions(at::Tensor activations, const at::Tensor& down);

/// Opens the teacher of a slot and refuses anything that has no dense FFN in each layer.
Decoder open_dense_teacher(const fs::path& path);


}  // namespace overproof
