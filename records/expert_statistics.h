#pragma once
// What the routed experts of a mixture did on a sample of the corpus: for pruning and merging experts. Made by `observe`.
//
//   statistics/experts.safetensors
//     layers.{l}.mean_output  F32 [experts, hidden]  mean over all tokens of the expert's output, whether it was chosen or not
//     layers.{l}.tokens       I32 [experts]          tokens that the router sent to the expert
//     layers.{l}.reap         F32 [experts]          mean over those of g ||output||, with g the expert's weight among the chosen
//                                                    ones, divided by their sum; 0 without tokens
//     layers.{l}.largest      F32 [experts]          largest magnitude of an output's element over those tokens
// Layers without experts, in models that have both kinds, have no tensors.
//
//   metadata: model_root, corpus_root, tokens, layers, experts, hidden_size, top_k, format_version, and dense_layers ("0,1") where a layer has no experts

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "formats/safetensors.h"

namespace overproof {

inline constexpr const char* kExpertStatisticsFile = "experts.safetensors";

/// The metadata.
struct ExpertStatisticsShape {
  Digest model_root, corpus_root;
  int64_t tokens = 0, layers = 0, experts = 0, hidden_size = 0, top_k = 0;
  std::vector<int64_t> dense_layers = {};  ///< those without experts, ascending
  bool has_experts(int64_t layer) const { return !std::ranges::binary_search(dense_layers, layer); }
};

/// What was observed of one layer's experts.
struct ExpertObservation {
  std::vector<float> mean_output;  ///< [experts, hidden]
  std::vector<int32_t> tokens;     ///< [experts]
  std::vector<float> reap, largest;  ///< [experts]
};

/// Writes experts.safetensors into `folder`; observation(l) is called for each layer in order; of one without
/// experts it returns an empty observation.
void write_expert_statistics(const ExpertStatisticsShape& shape, const std::function<ExpertObservation(int64_t layer)>& observation,
                             OutputFolder& folder);

/// The file, mapped.
class ExpertStatistics {
 public:
  /// `artifact`: a folder with experts.safetensors, or the file itself. Throws FormatError when a tensor is missing or has another type
  /// or shape than the metadata gives.
  explicit ExpertStatistics(const fs::path& artifact);
  const fs::path& path() const { return file_.path(); }
  const ExpertStatisticsShape& shape() const { return shape_; }
  /// Throws MismatchError unless they were taken of this model; present [layers]: whether the layer has experts.
  void require_model(const Digest& root, std::span<const char> present, int64_t experts) const;
  /// Of a layer with experts. Throws FormatError when a value is not finite, or is negative where none can be.
  ExpertObservation read(int64_t layer) const;

 private:
  std::vector<float> values(const std::string& name, bool may_be_negative) const;
  SafetensorsFile file_;
  ExpertStatisticsShape shape_;
};

}  // namespace overproof
