#pragma once
// Inside model/: what Decoder and Generator share.

#include <ATen/core/Tensor.h>

#include "formats/model_config.h"
#include "model/placement.h"

namespace overproof {

/// Radians per position of each pair of a head, [head_dim / 2], computed in f32 as transformers does; with Llama-3 scaling long
/// wavelengths are stretched.
at::Tensor inverse_frequencies(const ModelConfig& config, const Placement& placement);

/// Throws MismatchError for an id outside the vocabulary. tokens I64, not empty.
void check_tokens(const at::Tensor& tokens, const ModelConfig& config);

}  // namespace overproof
