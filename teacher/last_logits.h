#pragma once
// The row of logits that the next token is drawn from.

#include <vector>

#include "model/generator.h"

namespace overproof {

/// Logits [vocabulary] of the last row of hidden [tokens, hidden], the only one that is computed.
std::vector<float> last_logits(const Generator& generator, const at::Tensor& hidden);

}  // namespace overproof
