#pragma once
// What a teacher's feed-forward layers saw and did on a sample of the corpus: the input of carving and of static pruning.
//
//   statistics/statistics.safetensors
//     tokens                 I32 [tokens]            the observed ids, whole windows one after another
//     layers.{l}.ffn_input   F16 [tokens, hidden]    what layer l's FFN was given (after its norm)
//     layers.{l}.importance  F32 [ff]                mean over tokens of |h_j| x ||down[:, j]||, with h = silu(gate x) * (up x):
//                                                    how much neuron j adds to the residual stream
//   metadata: teacher_root, corpus_root, tokens, window_length, layers, hidden_size, intermediate_size, format_version
//
// Readers that do not know libtorch (prune/) take it as plain safetensors.

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "core/digest.h"
#include "formats/safetensors.h"
#include "formats/model_config.h"

namespace overproof {

inline constexpr char kStatisticsFile[] = "statistics.safetensors";

class Statistics {
 public:
  /// Opens statistics.safetensors of a `statistics` artifact; throws FormatError when it is not whole.
  explicit Statistics(const fs::path& artifact);
  const Digest& teacher_root() const { return teacher_root_; }
  int64_t tokens() const { return tokens_; }
  int64_t window_length() const { return window_length_; }
  int64_t layers() const { return layers_; }
  /// Throws UsageError unless the teacher has this many layers, this hidden size and this FFN width.
  void require_shape_of(const ModelConfig& teacher) const;
  at::Tensor ffn_input(int64_t layer) const;   ///< f32 [tokens, hidden]
  at::Tensor importance(int64_t layer) const;  ///< f32 [ff]
  /// The first `windows` observed windows, I64 [windows, window_length].
  at::Tensor windows(int64_t windows) const;

 private:
  SafetensorsFile file_;
  Digest teacher_root_;
  int64_t tokens_ = 0, window_length_ = 0, layers_ = 0, hidden_ = 0, ff_ = 0;
};

}  // namespace overproof
