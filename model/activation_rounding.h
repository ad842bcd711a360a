#pragma once
// Rounding of the inputs of Linears to 8 bits. Checkpoints whose quantization_config names input_activations (W8A8, FP8_DYNAMIC,
// DeepSeek's fp8) are made to be run with rounded inputs. The decoder rounds each input to the 8-bit grid and back to its own
// type; what differs from an integer kernel is the order of the sums.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"
#include "formats/activation_rounding.h"
#include "formats/tensor_source.h"

namespace at {
class Tensor;
}

namespace overproof {

struct ModelConfig;

/// x itself without `rounding`, else a rounded copy of the same device and type; x [.., columns]. No gradient.
at::Tensor rounded(const std::optional<ActivationRounding>& rounding, const at::Tensor& x);

struct FfnRounding {
  std::optional<ActivationRounding> gate, up, down;
  bool any() const { return gate || up || down; }
};

/// The inputs of one layer's Linears; an empty entry is not rounded.
struct LayerRounding {
  std::optional<ActivationRounding> q, k, v, o;
  FfnRounding dense;                 ///< the dense or shared FFN
  std::vector<FfnRounding> experts;  ///< [routed experts]
};

/// Reads the rounding of each layer from config.json (`file`), with static scales from the tensors X.input_scale and
/// X.input_zero_point. One entry a layer, null where no input of the layer is rounded. The head's input is never
/// rounded. Throws FormatError naming the module whose rounding is not supported (other bit widths, scales of a
/// whole dynamic tensor, ...).
std::vector<std::shared_ptr<const LayerRounding>> activation_rounding(const Json& config, const ModelConfig& shape,
                                                                      const TensorSource& tensors, const fs::path& file);

}  // namespace overproof
