#pragma once
// Training windows of a corpus on which a model is observed.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/corpus.h"

namespace overproof {

/// The training windows that the seed picks for observing a model, I64 [windows, window_length]: as many as hold `tokens` tokens
/// (rounded up, at most all). The draw is independent of every training order. Throws MismatchError when the corpus has no whole
/// training window.
at::Tensor sample_windows(const Corpus& corpus, const Digest& corpus_root, int64_t seed, int64_t tokens);

}  // namespace overproof
