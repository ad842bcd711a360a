#pragma once
// Carving: the neurons of a dense FFN dealt out to a shared expert and to routed experts of equal width, without changing
// a weight. Follows CMoE (Pei et al. 2025, arXiv 2502.04416): always-useful neurons are shared, the others are clustered
// by which tokens they serve. Here a neuron's profile is what it adds to the residual stream at each observed token
// (not only whether it fired), and the router is fitted to the experts' true output.

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/json_fwd.h"
#include "model/decoder.h"
#include "formats/tensor_source.h"

namespace overproof {

struct CarveOptions {
  int64_t experts = 15, shared = 1, top_k = 3;  ///< (experts + shared) divides the teacher's FFN width
  int64_t clustering_iterations = 20, ranking_steps = 60;
  double router_scale = 0.0625, ridge = 1e-2;
  int64_t seed = 0;
};

/// How well one layer was carved, measured on observed tokens that nothing was fitted to (the last quarter). Errors are
/// sums of squares of the FFN output's change over sums of squares of the output.
struct CarveQuality {
  double recall = 0;           ///< of the top_k experts with the largest true output, how many the router picks
  double centroid_recall = 0;  ///< the same for the mean gate vector of each expert, for comparison
  double router_error = 0;     ///< with the experts that the router picks
  double oracle_error = 0;     ///< with those of the largest true output
  double static_error = 0;     ///< with as many neurons, the most important ones, the same for each token
  double load_spread = 0;      ///< largest expert load over the mean load
};

struct LayerCarving {
  at::Tensor neurons;  ///< I64 [ff], a permutation: the shared experts' neurons, then each routed expert's
  at::Tensor gate;     ///< f32 [experts, hidden]
  at::Tensor bias;     ///< f32 [experts]
  CarveQuality quality;
};

/// gate_up [2 x ff, hidden], down [hidden, ff], input [tokens, hidden].
LayerCarving carve_layer(const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& input, const CarveOptions& options,
                         int64_t layer);

/// The student's shape: the teacher's with a glm4_moe FFN and an output head of its own.
ModelConfig carved_config(const ModelConfig& teacher, const CarveOptions& options);

/// The carved checkpoint, read straight out of the teacher's tensors under glm4_moe's names. The references must outlive it.
class CarvedTensors : public TensorSource {
 public:
  CarvedTensors(const TensorSource& teacher_tensors, const Decoder& teacher, const ModelConfig& config,
                const std::vector<LayerCarving>& layers);
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  at::Tensor carved(std::string_view name) const;  // undefined when the tensor is the teacher's own
  const TensorSource& source_;
  const Decoder& teacher_;
  ModelConfig config_;
  const std::vector<LayerCarving>& layers_;
  std::vector<TensorInfo> infos_;
};

}  // namespace overproof
