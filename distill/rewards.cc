#include "distill/rewards.h"

#include <cmath>

#include "core/error.h"

namespace overproof {

std::vector<float> group_advantages(std::span<const float> rewards, size_t group) {
  OVERPROOF_CHECK(group > 0 && rewards.size() % group == 0);
  std::vector<float> advantages(rewards.size());
  for (size_t first = 0; first < rewards.size(); first += group) {
    const auto of_group = rewards.subspan(first, group);
    double mean = 0, square = 0;
    for (const float r : of_group) mean += double(r) / double(group);
    for (const float r : of_group) square += (double(r) - mean) * (double(r) - mean) / double(group);
    if (square < 1e-12) continue;
    for (size_t i = 0; i < group; ++i) advantages[first + i] = float((double(of_group[i]) - mean) / std::sqrt(square));
  }
  return advantages;
}

}  // namespace overproof
