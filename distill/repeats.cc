#include "distill/repeats.h"

#include <set>

namespace overproof {

std::vector<float> repeated_labels(const TokenBatch& batch, int64_t first, int64_t count, int64_t run) {
  std::vector<float> repeated(size_t(count * batch.length), 0.0f);
  for (int64_t b = first; b < first + count; ++b) {
    const auto ids = batch.sequence_ids(b);
    const size_t row = size_t(b * batch.length), here = size_t((b - first) * batch.length);
    std::set<std::vector<int64_t>> before;
    int64_t written = 0;  // labels in a row, of one segment
    for (size_t t = 0; t < size_t(batch.length); ++t) {
      const bool counts = batch.weight[row + t] > 0, goes_on = t > 0 && batch.segment[row + t] == batch.segment[row + t - 1];
      if (!goes_on) before.clear();
      written = !counts ? 0 : goes_on ? written + 1 : 1;
      if (written < run) continue;
      const auto end = ids.begin() + ptrdiff_t(t) + 2;
      if (!before.emplace(end - run, end).second) repeated[here + t] = 1.0f;
    }
  }
  return repeated;
}

}  // namespace overproof
