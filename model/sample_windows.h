#pragma once
// Training windows of a corpus on which a model is observed.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/corpus.h"

namespace overproof {

struct SampledWindows {
  at::Tensor ids;       ///< I64 [windows, window_length]
  at::Tensor segments;  ///< I32, the same shape, for ForwardOptions; undefined unless the corpus keeps attention within documents
  /// Segments of the windows [first, first + count); undefined where all are.
  at::Tensor segments_of(int64_t first, int64_t count) const;
};

/// The training windows that the seed picks for observing a model: as many as hold `tokens` tokens (rounded up, at most all). The draw is
/// independent of every training order. Throws MismatchError when the corpus has no whole training window.
SampledWindows sample_windows(const Corpus& corpus, const Digest& corpus_root, int64_t seed, int64_t tokens);

}  // namespace overproof
