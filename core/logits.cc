#include "core/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace overproof {

float checked_maximum(std::span<const float> logits) {
  OVERPROOF_CHECK(!logits.empty());
  float most = logits[0];
  bool finite = true;
  for (const float x : logits) {
    most = std::max(most, x);
    finite &= std::abs(x) <= std::numeric_limits<float>::max();  // false for NaN, too
  }
  if (!finite) throw DivergenceError("the model's logits are not finite; its weights or its input are damaged");
  return most;
}

}  // namespace overproof
