// One less the cosine of the residual streams after each layer: their direction, whatever their length.
#include "distill/losses/layer_match.h"

namespace overproof {
namespace {

at::Tensor inner(const InnerRows& rows) {
  return match_layers(
      rows, [](const LayerStates& s) { return s.out; },
      [](const at::Tensor& x, const at::Tensor& y) { return 1 - at::cosine_similarity(x, y, 1, 1e-8); });
}

}  // namespace

const Loss kHiddenCosine{.name = "hidden-cosine",
                         .help = "1 - cosine of the hidden states after each layer",
                         .inside = Inside::layers,
                         .inner = inner};

}  // namespace overproof
