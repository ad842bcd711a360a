#pragma once
// What a teacher's feed-forward layers were given and did on a sample of the corpus: the `statistics` artifact, the input of carving
// and of pruning neurons. Made by `observe`.
//
//   statistics/statistics.safetensors
//     tokens                 I32 [tokens]            the observed ids, whole windows one after another
//     layers.{l}.ffn_input   F16 [tokens, hidden]    input of layer l's FFN, after its norm
//     layers.{l}.importance  F32 [ff]                mean over tokens of |h_j| x ||down[:, j]||, with h = silu(gate x) * (up x):
//                                                    the length of what neuron j adds to the residual stream
//     layers.{l}.mean        F32 [ff]                mean over tokens of h_j; in files since this member exists, as the next
//     layers.{l}.variance    F32 [ff]                sum over tokens of (h_j - mean)^2 / (tokens - 1); 0 for a single token
//     layers.{l}.taylor      F32 [ff]                only with gradients: sum over the weights w of neuron j (its rows of gate and up, its
//                                                    column of down) of |w dL/dw|, L the mean cross-entropy of the next token
//   metadata: teacher_root, corpus_root, tokens, window_length, layers, hidden_size, intermediate_size, format_version

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "formats/safetensors.h"

namespace overproof {

inline constexpr const char* kFfnStatisticsFile = "statistics.safetensors";

/// The metadata.
struct FfnStatisticsShape {
  Digest teacher_root, corpus_root;
  int64_t tokens = 0, window_length = 0;  ///< tokens: a multiple of window_length
  int64_t layers = 0, hidden_size = 0, intermediate_size = 0;
  bool moments = false, taylor = false;  ///< whether the file has mean and variance; taylor
};

/// What was observed of one layer. Both spans live until the next layer is asked for.
struct FfnObservation {
  std::span<const uint16_t> input;    ///< f16 [tokens, hidden]
  std::span<const float> importance;  ///< [ff]
  std::span<const float> mean, variance;  ///< [ff] where the shape has moments
};

/// Writes statistics.safetensors into `folder`. `ids` [tokens]; observation(l) is called for each layer in order, then taylor(l), which
/// returns [ff], where the shape has that.
void write_ffn_statistics(const FfnStatisticsShape& shape, std::span<const int32_t> ids,
                          const std::function<FfnObservation(int64_t layer)>& observation, OutputFolder& folder,
                          const std::function<std::vector<float>(int64_t layer)>& taylor = {});

/// The file, mapped.
class FfnStatistics {
 public:
  /// `artifact`: a folder with statistics.safetensors, or the file itself. Throws FormatError when a tensor is missing or has another
  /// type or shape than the metadata gives.
  explicit FfnStatistics(const fs::path& artifact);
  const fs::path& path() const { return file_.path(); }
  const FfnStatisticsShape& shape() const { return shape_; }

  /// Throws MismatchError unless they were taken of this teacher: its root, number of layers, hidden size and FFN width.
  void require_teacher(const Digest& root, int64_t layers, int64_t hidden_size, int64_t intermediate_size) const;

  /// f32 [tokens, hidden]. Throws FormatError when a value is not finite, here and below.
  std::vector<float> ffn_input(int64_t layer) const;
  /// f32 [ff], >= 0.
  std::vector<float> importance(int64_t layer) const;
  /// f32 [ff]. Throw MismatchError for a file without them: which option of observe records them.
  std::vector<float> mean(int64_t layer) const;
  std::vector<float> variance(int64_t layer) const;  ///< >= 0
  std::vector<float> taylor(int64_t layer) const;    ///< >= 0
  /// Ids of the first `windows` windows, or of all when there are fewer, [windows * window_length]. Throws FormatError for an id that is
  /// negative or >= vocab_size.
  std::vector<int64_t> ids(int64_t windows, int64_t vocab_size) const;

 private:
  std::vector<float> finite_values(const std::string& name) const;
  std::vector<float> positive_values(const std::string& name) const;
  SafetensorsFile file_;
  FfnStatisticsShape shape_;
};

}  // namespace overproof
