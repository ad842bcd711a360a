#pragma once
// What the parts of a dense decoder contribute on a sample of tokens, and a decoder of some of them.
//
//   layer      1 - mean over tokens of cos(x, y), x the residual stream before the layer and y after it: block influence
//              (Men et al. 2024, ShortGPT, arXiv 2403.03853, eq. 1)
//   width      a window's value of a neuron, head or dimension is the mean over its tokens of |activation|, and the importance is the L2 norm of
//              these values over the windows (Muralidharan et al. 2024, Minitron, arXiv 2407.14679, section 2.2, the aggregation of its table 11).
//              Activations: of a neuron the input of down_proj; of a query head the norm of its output vector, added up over the heads of a KV
//              group; of a dimension the outputs of all norms, added up

#include <ATen/core/Tensor.h>

#include <vector>

#include "formats/tensor_source.h"
#include "model/decoder.h"

namespace overproof {

struct PartImportance {
  std::vector<double> layers;        ///< block influence
  std::vector<at::Tensor> neurons;   ///< of each layer, F64 [ff]
  std::vector<at::Tensor> kv_heads;  ///< of each layer, F64 [kv_heads]
  at::Tensor dimensions;             ///< F64 [hidden]
};

/// Sums over batches of windows.
class ImportanceMeter {
 public:
  explicit ImportanceMeter(const Decoder& model);  ///< dense; must outlive this
  /// ids I64 [windows, length]; `segments` as in ForwardOptions.
  void add(const at::Tensor& ids, const at::Tensor& segments = {});
  PartImportance result() const;

 private:
  const Decoder& model_;
  int64_t tokens_ = 0;
  std::vector<double> cosines_;                      // sums over tokens
  std::vector<at::Tensor> neurons_, heads_;          // sums of squares of windows' values
  at::Tensor dimensions_;                            // of all norms: [2 x layers + 1, hidden]
};

/// Parts that are kept, ascending.
struct KeptParts {
  std::vector<int64_t> layers;
  std::vector<at::Tensor> neurons;   ///< I64, for each layer of the parent
  std::vector<at::Tensor> kv_heads;  ///< I64, for each layer of the parent
  at::Tensor dimensions;             ///< I64
};

struct PartCounts {
  int64_t layers = 0, neurons = 0, kv_heads = 0, dimensions = 0;
};

/// The most important parts; of equal ones the first. Throws UsageError when a count is 0 or more than there is.
KeptParts most_important(const PartImportance& importance, const PartCounts& counts);

/// The parent's shape with `counts`.
ModelConfig shrunk_config(const ModelConfig& parent, const PartCounts& counts);

/// The checkpoint of the kept parts. The references must outlive it.
class ShrunkTensors final : public TensorSource {
 public:
  /// `shape`: of shrunk_config. `head`: the parent's output head, for a student that does not tie it.
  ShrunkTensors(const TensorSource& parent_tensors, const ModelConfig& parent, const ModelConfig& shape, const KeptParts& kept, const at::Tensor& head);
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  struct Cut {
    std::string source;        // the parent's name
    at::Tensor rows, columns;  // undefined: all
  };
  Cut cut_of(std::string_view name) const;  // of the parent's name
  at::Tensor source_rows(const Cut& cut, int64_t first, int64_t count) const;  // all columns of these rows of the student's tensor
  const TensorSource& source_;
  ModelConfig parent_;
  const KeptParts& kept_;
  at::Tensor head_;
  std::vector<TensorInfo> infos_;
  std::vector<std::pair<std::string, Cut>> cuts_;  // by the student's name, sorted
};

}  // namespace overproof
