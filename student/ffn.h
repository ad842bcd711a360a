#pragma once
// The dense SwiGLU feed-forward layer by neurons: y = sum_j h_j down[:, j], h = silu(gate x) * (up x).

#include <ATen/core/Tensor.h>

#include "model/layer_stream.h"

namespace overproof {

/// h for each token and neuron. gate_up [2 x ff, hidden] (gate rows, then up rows), input [tokens, hidden] -> [tokens, ff].
at::Tensor neuron_activations(const at::Tensor& gate_up, const at::Tensor& input);

/// Length of what each neuron adds to the residual stream: |h_j| x ||down[:, j]||, [tokens, ff]. Overwrites `activations`.
at::Tensor neuron_contributions(at::Tensor activations, const at::Tensor& down);

/// Sum of squares of all elements, in f64.
double sum_of_squares(const at::Tensor& t);

/// Opens a teacher with a dense FFN in each layer, whole or layer by layer. Throw MismatchError for a mixture of experts.
Decoder open_dense_teacher(const fs::path& path);
LayerStream open_dense_stream(const fs::path& path);

}  // namespace overproof
