#include "model/sample_windows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "data/order.h"
#include "model/host_values.h"

namespace overproof {
namespace {

// No training order uses this tweak (theirs count epochs from 0), so the sample is independent of what is taught.
constexpr uint64_t kSampleTweak = 0x6f62736572766564;

}  // namespace

at::Tensor sample_windows(const Corpus& corpus, const Digest& corpus_root, int64_t seed, int64_t tokens) {
  const int64_t length = corpus.window_length(), available = corpus.windows(Split::train);
  if (available < 1)
    throw MismatchError("the corpus has no whole training window to observe; add documents or make it with a shorter --window");
  const int64_t windows = std::min((tokens + length - 1) / length, available);
  const Permutation sample(order_key(corpus_root, seed), kSampleTweak, available);
  const at::Tensor ids = at::empty({windows, length}, at::kLong);
  const std::span<int64_t> values = mutable_host_values<int64_t>(ids);
  std::vector<int64_t> row(size_t(length) + 1);
  for (int64_t w = 0; w < windows; ++w) {
    corpus.read_window(Split::train, sample.forward(w), row);
    std::copy_n(row.begin(), length, values.begin() + w * length);
  }
  return ids;
}

}  // namespace overproof
