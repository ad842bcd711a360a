#pragma once
// Upcycling: a dense FFN becomes copies (Komatsuzaki et al. 2023, arXiv 2212.05055), whole or cut into parts (the fine-grained experts of He et al.
// 2024, arXiv 2410.07524, and of Qwen1.5-MoE), with weights drawn anew or not (Nakamura et al. 2025, Drop-Upcycling, arXiv 2502.19261).
//
// Expert c x split + p is part p of copy c. All parts of a copy have the same router row, so the top k = split x t experts are the parts of t
// copies: a virtual group of 2410.07524. Weights are normalised to the sum `split`, so those of each part's copies sum to 1, and the output is the
// dense one, whatever the router. In glm4_moe: norm_topk_prob true, routed_scaling_factor split.

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "formats/tensor_source.h"
#include "model/decoder.h"

namespace overproof {

struct UpcycleOptions {
  int64_t copies = 8, split = 1, top_k = 1;
  double drop = 0, router_deviation = 0.02;
  uint64_t seed = 0;
  bool tie = false;
};

/// Whether the result computes what the parent computes.
inline bool upcycles_exactly(const UpcycleOptions& o) { return o.drop == 0 && o.top_k % o.split == 0; }

/// The student's shape. Throws UsageError when the options do not fit the parent, MismatchError when glm4_moe cannot express it.
ModelConfig upcycled_config(const ModelConfig& parent, const UpcycleOptions& options);

/// An expert's weights. `rows` of gate and up are neurons, and so are columns of down.
struct ExpertWeights {
  at::Tensor gate, up, down;  ///< f32 [width, hidden], [width, hidden], [hidden, width]
};

/// Drop-Upcycling: of `drop` x width neurons, the same in all three matrices, the weights of each matrix are drawn from the normal distribution with
/// the mean and the (unbiased) deviation of those that they replace. Draws depend on (seed, stream) only.
ExpertWeights with_redrawn(ExpertWeights expert, double drop, uint64_t seed, uint64_t stream);

/// The checkpoint of the student under glm4_moe's names. The references must outlive it.
class UpcycledTensors final : public TensorSource {
 public:
  UpcycledTensors(const TensorSource& parent_tensors, const Decoder& parent, const ModelConfig& config, const UpcycleOptions& options);
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  at::Tensor made(std::string_view name) const;  // undefined when the tensor is the parent's own
  const TensorSource& source_;
  const Decoder& parent_;
  ModelConfig config_;
  UpcycleOptions options_;
  std::vector<TensorInfo> infos_;
};

}  // namespace overproof
