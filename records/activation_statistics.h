#pragma once
// Statistics of the inputs of a model's Linear weights: the `activations` artifact, for calibrated quantization. Written by
// ActivationJournal (records/activation_journal.h).
//
//   activations/activations.safetensors      one group for each set of weights that share an input
//     G.amax      F32 [in]        largest magnitude of each input channel
//     G.square    F32 [in]        mean square of each input channel; in files since this member exists
//     G.range     F32 [2]         least and largest value over all channels
//     G.samples   F16 [n, in]     rows of the input, n <= `samples`
//     G.hessian   F32 [in, in]    mean over tokens of x x^T; only with --hessians
//     G.tokens    I64 [2]         tokens that the router sent here; tokens added to reach the minimum
//   metadata: model_root, corpus_root, tokens, format_version, and "groups": JSON {weight name: group name}
//
// G is the first weight of the group without ".weight": "model.layers.0.self_attn.q_proj" (also k and v),
// "model.layers.0.mlp.experts.3.gate_proj" (also up), ...

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "formats/safetensors.h"

namespace overproof {

inline constexpr char kActivationsFile[] = "activations.safetensors";

/// One group in memory. The largest part is the Hessian: in x in floats.
struct LinearStatistics {
  int64_t columns = 0;
  std::vector<float> amax;  ///< [in]
  std::vector<float> square;  ///< [in]: mean over tokens of x^2; from the Hessian's diagonal in older files, empty where there is neither
  float least = 0, largest = 0;
  int64_t sample_rows = 0;
  std::vector<float> samples;  ///< [sample_rows, in]
  std::vector<float> hessian;  ///< [in, in], or empty
  int64_t tokens = 0;          ///< all, forced ones included
  int64_t forced_tokens = 0;   ///< those of them that the router did not send here
};

/// The file, mapped. Throws FormatError naming file and tensor for shapes that disagree, groups without tensors, negative counts and
/// values that are not finite.
class ActivationStatistics {
 public:
  /// A folder with activations.safetensors, or the file itself.
  explicit ActivationStatistics(const fs::path& path);
  const fs::path& path() const { return file_.path(); }
  const Digest& model_root() const { return model_root_; }
  /// Weight name ("....q_proj.weight") -> group.
  const std::map<std::string, std::string, std::less<>>& groups() const { return groups_; }
  /// nullptr when this weight's input was not recorded.
  const std::string* group_of(std::string_view weight) const;
  int64_t columns(const std::string& group) const;
  int64_t tokens(const std::string& group) const;  ///< all, forced ones included
  bool has_hessian(const std::string& group) const { return file_.contains(group + ".hessian"); }
  enum class Parts { small, samples, hessian };  ///< `small`: amax, range and counts; the others add samples or the Hessian
  LinearStatistics read(const std::string& group, Parts parts) const;

 private:
  std::vector<int64_t> counts(const std::string& group) const;
  std::vector<float> values(const std::string& name) const;
  std::vector<float> squares(const std::string& group) const;
  SafetensorsFile file_;
  Digest model_root_;
  std::map<std::string, std::string, std::less<>> groups_;
};

}  // namespace overproof
