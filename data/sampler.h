#pragma once
// The next token from a row of logits: most probable, or drawn from the nucleus, with or without a watermark.

#include <optional>
#include <span>

#include "core/rng.h"
#include "data/watermark.h"

namespace overproof {

struct SamplingOptions {
  double temperature = 1.0;         ///< 0: the most probable token
  double top_p = 1.0;               ///< nucleus (Holtzman et al. 2020)
  double watermark_strength = 2.0;  ///< added to green logits, before the temperature
};

/// The next id after `before`. Ids are taken in the order of their logits, equals by number, so that the same draw gives the same
/// id everywhere. `watermark` may be null; it is applied once `before` is as long as its context.
int32_t sample_token(std::span<const float> logits, std::span<const int32_t> before, const SamplingOptions& options,
                     const WatermarkKey* watermark, Rng& rng);

}  // namespace overproof
