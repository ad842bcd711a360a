// Squared distance of the residual streams after each layer, relative to the teacher's.
#include "distill/losses/layer_match.h"

namespace overproof {
namespace {

at::Tensor inner(const InnerRows& rows) {
  return match_layers(
      rows, [](const LayerStates& s) { return s.out; }, relative_square);
}

}  // namespace

const Loss kHiddenMse{.name = "hidden-mse",
                      .help = "squared distance of the hidden states after each layer, relative to the teacher's",
                      .inside = Inside::layers,
                      .inner = inner};

}  // namespace overproof
