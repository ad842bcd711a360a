#pragma once
// Inside model/: what Decoder and Generator share.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "formats/model_config.h"
#include "model/ops/rotary.h"
#include "model/rope.h"

namespace overproof {

/// Throws MismatchError for an id outside the vocabulary. tokens I64, not empty.
void check_tokens(const at::Tensor& tokens, const ModelConfig& config);

/// The norm of this architecture over the last dimension, in the type `out`; x itself where `weight` is undefined: some layers have no norm at
/// this place. `bias` may be undefined.
at::Tensor normed(const ModelConfig& config, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {},
                  std::optional<at::ScalarType> out = std::nullopt);

/// Norms of the heads of queries or keys x [n, heads, head_dim], by their kind (HeadNorm).
at::Tensor normed_heads(const ModelConfig& config, const at::Tensor& x, const at::Tensor& weight);

/// silu or gelu of the gate, times up: gate_up [n, 2 x width] -> [n, width]. Differentiable; ops::swiglu is faster and is not.
at::Tensor gated(GateActivation activation, const at::Tensor& gate_up);

/// cap x tanh(logits / cap), in the memory of `logits`; the logits themselves where cap is 0.
at::Tensor capped(at::Tensor logits, double cap);

/// Width of keys, queries and values in attention, which fills the narrower ones with zeros.
inline int64_t attention_width(const ModelConfig& c) { return std::max(c.head_dim, c.value_width()); }
/// x [n, heads, width] with zeros up to attention_width().
at::Tensor widened(const ModelConfig& config, const at::Tensor& x);
/// The factor of queries that makes attention's 1 / sqrt(attention_width) the scale of this architecture; 1: none.
double query_factor(const ModelConfig& config);

/// Epsilon of the norms inside latent attention, which transformers does not take from config.json.
inline constexpr double kLatentNormEps = 1e-6;
struct LatentHeads {
  at::Tensor k, v;  ///< [n, heads, head_dim] before RoPE, [n, heads, value_dim]
};
/// kv [n, heads, nope_dim + value_dim]; rope [n, rope_dim], which all heads share. Keys in the order of formats/canonical_tensors.h.
LatentHeads latent_heads(const ModelConfig& config, const at::Tensor& kv, const at::Tensor& rope);

/// Bool [queries, keys], the last query at the last key: those up to each and within the window.
at::Tensor window_mask(int64_t queries, int64_t keys, int64_t window);

}  // namespace overproof
