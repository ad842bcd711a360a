#pragma once
// Trials of a carving: what `recover` would make of it. Clusters, router and number of shared experts are chosen by this error, since
// the error before the output projections are solved ranks them differently.

#include <ATen/core/Tensor.h>

#include "student/carve.h"

namespace overproof {

/// A carving with its output projections solved (student/ridge.h) on the fitted tokens.
struct Recovered {
  at::Tensor down;        ///< f32 [ff, hidden], in the order of LayerCarving::neurons
  double error = 0;       ///< of the layer's output on the other tokens, relative to its square
  double oracle = 0;      ///< the same with the experts that would take most off the error of each token: what a perfect router gains
};

class CarveTrial {
 public:
  /// activations f32 [tokens, ff] (neuron_activations), down [hidden, ff], input f32 [tokens, hidden]; the first `fitted` tokens are
  /// solved on, the others measured.
  CarveTrial(at::Tensor activations, const at::Tensor& down, at::Tensor input, int64_t fitted, const CarveOptions& options);

  Recovered recover(const LayerCarving& carving) const;
  /// The same neurons with a router fitted to what the recovered experts take off the error of each token.
  LayerCarving refit(const LayerCarving& carving, const Recovered& recovered) const;

 private:
  struct Layout {
    int64_t width, shared;  // neurons of an expert; of all shared ones
  };
  Layout layout(const LayerCarving& carving) const;
  at::Tensor expert_weights(const LayerCarving& carving, int64_t first, int64_t count, const at::Tensor& chosen) const;
  at::Tensor gains(const LayerCarving& carving, const at::Tensor& down, int64_t first, int64_t count) const;

  at::Tensor activations_, down_, input_, output_;  // output_: of the dense layer, [tokens, hidden]
  int64_t fitted_;
  const CarveOptions& options_;
};

}  // namespace overproof
