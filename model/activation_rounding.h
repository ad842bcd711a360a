#pragma once
// Eight bits for what goes into a Linear: checkpoints whose quantization_config names input_activations (W8A8, FP8_DYNAMIC,
// DeepSeek's fp8) are meant to be run with rounded inputs. The decoder computes in f32, so it rounds each input to the
// 8-bit grid and back: what is left between it and an integer kernel is the order of f32 sums.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/activation_rounding.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"

namespace at {
class Tensor;
}

namespace overproof {

struct ModelConfig;

/// x itself when nobody asks for rounding; else a rounded copy, [.., columns] contiguous f32.
at::Tensor rounded(const std::optional<ActivationRounding>& rounding, const at::Tensor& x);

struct FfnRounding {
  std::optional<ActivationRounding> gate, up, down;
  bool any() const { return gate || up || down; }
};

/// The inputs of one layer's Linears; an empty entry is left as it is.
struct LayerRounding {
  std::optional<ActivationRounding> q, k, v, o;
  FfnRounding dense;                 ///< the dense or shared FFN
  std::vector<FfnRounding> experts;  ///< [routed experts]
};

/// What config.json asks for, and for static scales what the tensors X.input_scale and X.input_zero_point say; `file` is the
/// config's name. One entry a layer, null where no input of the layer is rounded. The head's input is never rounded: loaders
/// leave it alone. Throws FormatError naming the module for what cannot be computed (other bit widths, scales of a whole dynamic
/// tensor, ...).
std::vector<std::shared_ptr<const LayerRounding>> activation_rounding(const Json& config, const ModelConfig& shape,
                                                                      const TensorSource& tensors, const fs::path& file);

}  // namespace overproof
