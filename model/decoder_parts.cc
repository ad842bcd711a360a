#include "model/decoder_parts.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/ops/layer_norm.h"
#include "model/ops/rms_norm.h"

namespace overproof {

using at::Tensor;

void check_tokens(const Tensor& tokens, const ModelConfig& config) {
  OVERPROOF_CHECK(tokens.scalar_type() == at::kLong && tokens.numel() > 0);
  const auto [low, high] = at::aminmax(tokens);
  if (low.item<int64_t>() < 0 || high.item<int64_t>() >= config.vocab_size)
    throw MismatchError(fmt::format("token id {} is outside the model's vocabulary of {}",
                                    low.item<int64_t>() < 0 ? low.item<int64_t>() : high.item<int64_t>(), config.vocab_size));
}

Tensor normed(const ModelConfig& c, const Tensor& x, const Tensor& weight, const Tensor& bias,
              std::optional<at::ScalarType> out) {
  if (!weight.defined()) return out ? x.to(*out) : x;
  return c.norm == NormKind::layer ? ops::layer_norm(x, weight, bias, c.rms_norm_eps, out)
                                   : ops::rms_norm(x, weight, c.rms_norm_eps, out);
}

Tensor normed_heads(const ModelConfig& c, const Tensor& x, const Tensor& weight) {
  switch (c.head_norm) {
    case HeadNorm::wide:
      return ops::rms_norm(x.reshape({x.size(0), -1}), weight, c.rms_norm_eps).view(x.sizes());
    case HeadNorm::layer_head:
      return ops::layer_norm(x, {}, {}, c.rms_norm_eps) * weight;
    default:
      return ops::rms_norm(x, weight, c.rms_norm_eps);
  }
}

Tensor gated(GateActivation activation, const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  if (activation == GateActivation::silu) return at::silu(halves[0]) * halves[1];
  return at::gelu(halves[0], activation == GateActivation::gelu_tanh ? "tanh" : "none") * halves[1];
}

Tensor capped(Tensor logits, double cap) { return cap == 0 ? logits : logits.div_(cap).tanh_().mul_(cap); }

Tensor widened(const ModelConfig& c, const Tensor& x) {
  const int64_t missing = attention_width(c) - x.size(2);
  return missing == 0 ? x : at::constant_pad_nd(x, {0, missing});
}

double query_factor(const ModelConfig& c) {
  return c.attention_scale == 0 ? 1.0 : c.attention_scale * std::sqrt(double(attention_width(c)));
}

LatentHeads latent_heads(const ModelConfig& c, const Tensor& kv, const Tensor& rope) {
  const int64_t n = kv.size(0), pairs = c.rope_dim / 2, still = c.nope_dim / 2;
  const Tensor shared = rope.unsqueeze(1).expand({n, c.heads, c.rope_dim});
  const auto nope = [&](int64_t half) { return kv.narrow(2, half * still, still); };
  return {at::cat({shared.narrow(2, 0, pairs), nope(0), shared.narrow(2, pairs, pairs), nope(1)}, 2),
          kv.narrow(2, c.nope_dim, c.value_dim)};
}

Tensor window_mask(int64_t queries, int64_t keys, int64_t window) {
  return at::ones({queries, keys}, at::kBool).tril(keys - queries).triu(keys - queries - window + 1);
}

}  // namespace overproof
