#pragma once
// Divergence of one model's next-token distribution from another's, on windows of text that neither has seen in training.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/decoder.h"

namespace overproof {

/// Windows of ids, each with the id that follows every position.
struct TokenWindows {
  std::vector<at::Tensor> batches;  ///< I64 [<= batch, length]
  std::vector<at::Tensor> segments;  ///< of each batch, I32, where the corpus keeps attention within documents; else empty
  at::Tensor labels;                ///< I64 [tokens]: all, or those that the corpus's mask leaves
  at::Tensor counted;               ///< I64 [tokens]: which of all labels these are; undefined: all
  int64_t windows = 0;
  std::vector<std::string> kinds;  ///< of text, by name; none when there is one kind only
  std::vector<int32_t> kind;       ///< of each label: index into `kinds`; empty without kinds
  int64_t tokens() const { return labels.numel(); }
  int64_t tokens_read() const {
    int64_t sum = 0;
    for (const at::Tensor& rows : batches) sum += rows.numel();
    return sum;
  }
};

/// About `tokens` held-out tokens of a corpus: whole windows, the middle of each of equal parts of the held-out stream.
/// A kind of text is a source of the corpus where its held-out documents have at most four; else all that no teacher sampled are one
/// kind, "other". Throws MismatchError when the corpus has no whole held-out window.
TokenWindows held_out_windows(const Corpus& corpus, int64_t tokens, int64_t batch);

/// The same of a text file, or of every file of a folder in the order of their names, in windows of `length` tokens. Throws
/// FormatError when the text is shorter than one window, IoError.
TokenWindows text_windows(const fs::path& text, const Tokenizer& tokenizer, int64_t length, int64_t tokens, int64_t batch);

/// Hidden states of all tokens after the last norm.
struct States {
  at::Tensor hidden;   ///< [tokens, hidden], of the labels of TokenWindows
  double seconds = 0;  ///< that the forward passes took
};
/// Calls step(tokens) after each batch. Throws Interrupted.
States final_states(const Decoder& model, const TokenWindows& windows, const std::function<void(int64_t tokens)>& step = {});

/// The same for one kind of text.
struct KindDivergence {
  int64_t tokens = 0;
  double perplexity = 0, kl_mean = 0, top1 = 0;
};

/// The model against the teacher; nats a token. kl_p99 is the 99th percentile over tokens (nearest rank).
struct Divergence {
  double perplexity = 0, teacher_perplexity = 0, kl_mean = 0, kl_p99 = 0;
  double calibration_error = 0;  ///< records/evaluation.h
  double top1 = 0;          ///< fraction of positions where the most probable token is the teacher's
  double head_seconds = 0;  ///< spent on the model's own logits
  std::vector<KindDivergence> kinds;
};
/// All of it from both models' hidden states [tokens, hidden], in chunks of tokens, so that whole logits are never in memory. labels
/// and kinds are those of `windows`. Throws DivergenceError when a KL is not finite.
Divergence compare_states(const Decoder& teacher, const at::Tensor& teacher_hidden, const Decoder& model,
                          const at::Tensor& hidden, const TokenWindows& windows);

}  // namespace overproof
