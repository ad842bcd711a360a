#pragma once
// Stage "prune-weights": sets weights of a model's Linears to zero, unstructured or as 2:4. The result is an ordinary checkpoint: smaller only
// where it is stored or run in a form for zeros. prune/weight_masks.h has the methods.

#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "formats/weight_dtype.h"
#include "prune/weight_masks.h"

namespace overproof {

struct PruneWeightsConfig {
  WeightMethod method = WeightMethod::wanda;
  std::string sparsity = "0.5";
  double dampening = 0.01;
  WeightDType dtype = WeightDType::automatic;
  template <class V>
  void visit(V&& v) {
    v("method", method,
      enum_of<WeightMethod>({{"magnitude", WeightMethod::magnitude}, {"wanda", WeightMethod::wanda}, {"sparsegpt", WeightMethod::sparsegpt}}),
      "which weights become zero. magnitude: the smallest; wanda: the smallest times the norm of their input, in each row; sparsegpt: those whose "
      "loss can be compensated best by the others, which change");
    v("sparsity", sparsity, any_value(), "share of the weights that becomes zero, as 0.5, or how many of each group of neighbours in a row, as 2:4");
    v("dampening", dampening, in_range(1e-6, 1), "of sparsegpt: added to the diagonal of the Hessian, relative to its mean");
    visit_weight_dtype(v, dtype);
  }
};

/// Slots: model (any checkpoint that is not quantized), and statistics of its Linears (what `observe --linears` or `activations` made; sparsegpt
/// needs Hessians), which magnitude does not need. Zeros weights of the Linears of the decoder's layers, routed experts included; embeddings,
/// head, routers, norms and biases are copied. A weight whose input saw no token is pruned by magnitude. Memory: one weight in f32, with wanda
/// its input's norms, with sparsegpt its input's Hessian and factor (records/hessian_factor.h).
/// Metrics: "zeros" the share of zeros in the pruned weights, "layers": the same of each layer.
/// Throws MismatchError for statistics of another model or without what the method needs, and for a group that does not divide a row.
StageReport run_prune_weights(const PruneWeightsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
