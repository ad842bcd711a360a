#pragma once
// Statistics of the inputs of Linear weights that `activations` has recorded so far, in its scratch folder until the model's last layer
// is done: a killed run resumes after its last whole layer. Then they are written in the form of records/activation_statistics.h.
//
//   activations.spill         for each recorded input, in order, without padding:
//                               I64 tokens[2]  F32 amax[in]  F32 square[in]  F32 range[2]  F32 hessian[in][in] (if any)  F16 samples[n][in]
//   and what records/layer_journal.h describes; progress:
//                               {"layers":n, "experts":[total, topped_up, below, forced_tokens],
//                                "groups":[[["model.layers.0.self_attn.q_proj", ...], in, n, hessian?], ...]}

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "formats/safetensors.h"
#include "records/layer_journal.h"

namespace overproof {

/// What the Linear weights that share an input were given.
struct RecordedInput {
  std::vector<std::string> weights;  ///< names without ".weight"; the first one names the group
  std::span<const float> amax;       ///< [in]
  std::span<const float> square;     ///< [in]: mean over rows of x^2
  std::array<float, 2> range;
  std::span<const uint16_t> samples;  ///< f16 [n, in]
  std::span<const float> hessian;     ///< [in, in], or empty
  int64_t routed = 0, forced = 0;     ///< tokens that the router sent here; tokens added to reach a minimum
};

/// How far a pass over the layers has come.
struct LayerProgress {
  int64_t layers_done = 0;
  int64_t experts = 0, topped_up = 0, below = 0, forced_tokens = 0;  ///< experts of those layers, and how they got their tokens
};

class ActivationJournal {
 public:
  struct Shape {
    int64_t layers, tokens, hidden;
  };
  /// Resumes from what a killed run of the same stage key left in `scratch`; from nothing when anything of it does not hold.
  /// Throws IoError.
  ActivationJournal(const fs::path& scratch, const Digest& stage_key, const Shape& shape);

  const LayerProgress& progress() const { return progress_; }
  /// The residual stream of progress(), F32 [tokens, hidden], into `out`. Only when layers_done > 0. Throws FormatError when the file
  /// changed since it was digested.
  void read_stream(std::span<float> out) const { journal_.read_stream(out); }

  void add(const RecordedInput& input);
  /// All inputs added so far are those of whole layers: puts them on the disk, together with the stream after them. Throws IoError.
  void checkpoint(const LayerProgress& progress, std::span<const float> stream);

  int64_t groups() const { return int64_t(groups_.size()); }
  /// Writes activations.safetensors of all that was added and removes the scratch files. `metadata` has model_root, corpus_root and tokens.
  void finish(OutputFolder& folder, Metadata metadata);

 private:
  struct Group {
    std::vector<std::string> weights;
    int64_t columns = 0, samples = 0;
    bool hessian = false;
    std::optional<int64_t> bytes() const;
  };
  std::optional<int64_t> restore(int64_t layers, const Json& progress);
  static std::optional<Group> group_of(const Json& json);

  std::vector<Group> groups_;
  LayerProgress progress_;
  LayerJournal journal_;
};

}  // namespace overproof
