#pragma once
// Outputs of models on windows of text, by window.

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "data/corpus.h"
#include "model/decoder.h"

namespace overproof {

/// Windows with the id that follows each position, I64 [windows, length + 1].
at::Tensor read_windows(const Corpus& corpus, Split split, const std::vector<int64_t>& windows);

/// Mean over each window's positions, nats: the model's loss on the text and, when a teacher is given, KL(teacher || model). Of
/// the teacher itself, `kl` is its entropy.
struct WindowScores {
  std::vector<double> loss, kl;
};
/// `models` score the same windows; the teacher (may be null) runs once, and its scores come last. Calls step(windows) after each
/// batch. Throws Interrupted.
std::vector<WindowScores> score_windows(const Decoder* teacher, const std::vector<const Decoder*>& models,
                                        const at::Tensor& windows, int64_t batch,
                                        const std::function<void(int64_t windows)>& step = {});

/// The most probable next id after each position of tokens I64 [batch, length], as I64 [batch, length].
at::Tensor predict_tokens(const Decoder& model, const at::Tensor& tokens);

/// The most probable next id after the last position of each of windows I64 [windows, length].
std::vector<int32_t> predict_last(const Decoder& model, const at::Tensor& windows, int64_t batch,
                                  const std::function<void(int64_t windows)>& step = {});

}  // namespace overproof
