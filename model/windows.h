#pragma once
// Windows of a corpus as tensors of token ids.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/corpus.h"

namespace overproof {

/// The training windows that the seed picks for observing a model, I64 [windows, window_length]: as many as hold `tokens`
/// tokens (rounded up, at most all there are). No training order uses the same draw. Throws UsageError when there is no whole
/// window.
at::Tensor sample_windows(const Corpus& corpus, const Digest& corpus_root, int64_t seed, int64_t tokens);

}  // namespace overproof
