#include "model/sample_windows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "data/order.h"
#include "data/token_batch.h"
#include "model/host_values.h"

namespace overproof {
namespace {

// No training order uses this tweak (theirs count epochs from 0), so the sample is independent of what is taught.
constexpr uint64_t kSampleTweak = 0x6f62736572766564;

}  // namespace

at::Tensor SampledWindows::segments_of(int64_t first, int64_t count) const {
  return segments.defined() ? segments.narrow(0, first, count) : segments;
}

SampledWindows sample_windows(const Corpus& corpus, const Digest& corpus_root, int64_t seed, int64_t tokens) {
  const int64_t length = corpus.window_length(), available = corpus.windows(Split::train);
  if (available < 1)
    throw MismatchError("the corpus has no whole training window to observe; add documents or make it with a shorter --window");
  const int64_t windows = std::min((tokens + length - 1) / length, available);
  const Permutation sample(order_key(corpus_root, seed), kSampleTweak, available);
  const at::Tensor ids = at::empty({windows, length}, at::kLong);
  const std::span<int64_t> values = mutable_host_values<int64_t>(ids);
  const at::Tensor segments = corpus.document_attention() ? at::empty({windows, length}, at::kInt) : at::Tensor();
  std::vector<int64_t> row(size_t(length) + 1);
  for (int64_t w = 0; w < windows; ++w) {
    corpus.read_window(Split::train, sample.forward(w), row);
    std::copy_n(row.begin(), length, values.begin() + w * length);
    if (segments.defined())
      read_segments(corpus, Split::train, sample.forward(w), mutable_host_values<int32_t>(segments).subspan(size_t(w * length), size_t(length)));
  }
  return {ids, segments};
}

}  // namespace overproof
