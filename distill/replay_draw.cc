// Which segments an auditor makes again, and what the draw would have caught.
#include <algorithm>

#include "core/public_draw.h"
#include "distill/replay.h"

namespace overproof {

std::vector<int64_t> draw_segments(int64_t total, int64_t count, std::string_view seed, const Digest& root) {
  return draw_publicly("overproof replay draw v1", "audit/replay", total, count, seed, root);
}

double caught_exactly(int64_t total, int64_t drawn, int64_t forged) {
  double missed = 1;
  for (int64_t i = 0; i < drawn && missed > 0; ++i) missed *= std::max(0.0, double(total - forged - i)) / double(total - i);
  return 1 - missed;
}

}  // namespace overproof
