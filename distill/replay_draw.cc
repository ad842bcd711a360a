// Which segments an auditor makes again, and what the draw would have caught.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "distill/replay.h"

namespace overproof {

std::vector<int64_t> draw_segments(int64_t total, int64_t count, std::string_view seed, const Digest& root) {
  Sha256 hash;
  hash.update("overproof replay draw v1");
  if (seed.empty())
    throw UsageError("option 'seed' is missing: take it from public randomness, drawn after the run was published");
  for (char c : seed) {
    if (c >= 'A' && c <= 'F') c = char(c - 'A' + 'a');
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) || seed.size() > 1024)
      throw UsageError(fmt::format("option 'seed': '{}' is not hex digits", seed.substr(0, 80)));
    hash.update(&c, 1);
  }
  hash.update(root.bytes.data(), root.bytes.size());
  const Digest key = hash.finish();
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | key.bytes[size_t(i)];
  Rng rng(word, "audit/replay");
  // Floyd's sampling: each set of that size is equally likely, and nothing as long as the list is needed.
  std::set<int64_t> drawn;
  for (int64_t j = total - std::min(count, total); j < total; ++j)
    if (const int64_t pick = int64_t(rng.below(uint64_t(j) + 1)); !drawn.insert(pick).second) drawn.insert(j);
  return {drawn.begin(), drawn.end()};
}

double caught_exactly(int64_t total, int64_t drawn, int64_t forged) {
  double missed = 1;
  for (int64_t i = 0; i < drawn && missed > 0; ++i) missed *= std::max(0.0, double(total - forged - i)) / double(total - i);
  return 1 - missed;
}

}  // namespace overproof
