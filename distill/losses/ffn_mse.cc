// Squared distance of what each layer's FFN, dense or mixture, adds to the residual stream, relative to the teacher's.
#include "distill/losses/layer_match.h"

namespace overproof {
namespace {

at::Tensor inner(const InnerRows& rows) {
  return match_layers(
      rows, [](const LayerStates& s) { return s.out - s.attended; }, relative_square);
}

}  // namespace

const Loss kFfnMse{.name = "ffn-mse",
                   .help = "squared distance of the FFN outputs of each layer, relative to the teacher's",
                   .inside = Inside::layers,
                   .inner = inner};

}  // namespace overproof
