#pragma once
// The next token from a row of logits: most probable, or drawn from the nucleus, with or without a watermark.

#include <limits>
#include <optional>
#include <span>

#include "core/rng.h"
#include "data/watermark.h"

namespace overproof {

struct SamplingOptions {
  double temperature = 1.0;         ///< 0: the most probable token
  double top_p = 1.0;               ///< nucleus (Holtzman et al. 2020)
  double watermark_strength = 2.0;  ///< added to green logits, before the temperature
  /// Of ids in the text so far, prompt included, before all else: a positive logit is divided by it, a negative one multiplied (Keskar et
  /// al. 2019, arXiv:1909.05858; as in transformers). 1: none.
  double repetition_penalty = 1.0;
};

/// The logit of an id that must not be drawn: finite, and exp() of its distance to any other logit is 0.
inline constexpr float kExcludedLogit = std::numeric_limits<float>::lowest();

/// The next id after `before`. Ids are taken in the order of their logits, equals by number, so that the same draw gives the same
/// id everywhere. `watermark` may be null; it is applied once `before` is as long as its context. Throws DivergenceError when a
/// logit is NaN or infinite.
int32_t sample_token(std::span<const float> logits, std::span<const int32_t> before, const SamplingOptions& options,
                     const WatermarkKey* watermark, Rng& rng);

}  // namespace overproof
