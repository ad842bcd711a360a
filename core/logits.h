#pragma once
// A row of logits as a model gives it.

#include <span>

namespace overproof {

/// The largest logit. Throws DivergenceError when any is NaN or infinite. The row must not be empty.
float checked_maximum(std::span<const float> logits);

}  // namespace overproof
