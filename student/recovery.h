#pragma once
// Closed-form recovery: once the routing of a layer is fixed, the output projections of its experts are a linear map of features that
// are known, the activations w_e(x) a_e(x) of the chosen experts. Ridge regression finds the map whose output is closest to the
// parent's; no gradient is computed.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "student/ridge.h"

namespace overproof {

/// The output projections of one layer's FFN, as blocks: the dense or shared one if there is one, then the routed experts.
class FfnOutputs {
 public:
  FfnOutputs(const Decoder& model, int64_t layer);

  std::vector<int64_t> widths() const;
  /// "shared", "expert 3", or "ffn" of a dense layer.
  std::string name(size_t block) const;

  struct Pass {
    std::vector<FeatureBlock> blocks;
    at::Tensor out;  ///< of the whole FFN with the present weights, without the residual stream, [n, hidden]
  };
  /// `x`: the residual stream before the FFN, [n, hidden].
  Pass run(const at::Tensor& x) const;

  /// The projections one after another, f32 [sum of widths(), hidden].
  at::Tensor weights() const;
  /// Writes them, of any type, into the decoder's memory.
  void set_weights(const at::Tensor& weights) const;

 private:
  std::vector<at::Tensor> projections() const;  // [hidden, width] each, in the decoder's memory
  const Decoder& model_;
  int64_t layer_;
};

/// What choosing each expert would have taken off the squared error of a token, when it is chosen alone: 2 <r, c> - |c|^2 with r the
/// residual without routed experts and c the expert's weighted output. f32 [n, experts]; `x` the residual stream before the FFN, `target`
/// the output to reach. Sigmoid weights are not normalised
/// over the chosen experts here, also where the model does that; softmax weights are, as in the model. Costs a dense pass.
at::Tensor expert_gains(const Decoder& model, int64_t layer, const at::Tensor& x, const at::Tensor& target);

}  // namespace overproof
