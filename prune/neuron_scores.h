#pragma once
// The importance of FFN neurons by the methods that are known, from the statistics of one observing pass (records/ffn_statistics.h), and
// the bias that replaces what removed neurons gave on average.

#include <cstdint>
#include <vector>

#include "formats/tensor_source.h"
#include "prune/ffn_cut.h"
#include "records/ffn_statistics.h"

namespace overproof {

enum class NeuronMethod {
  active,  ///< mean over tokens of |h_j| ||W_j||: the length of what the neuron adds to the residual stream
  flap,    ///< the sample variance of h_j times ||W_j||^2, the fluctuation metric of FLAP (An et al. 2023, arXiv 2312.11983)
  taylor,  ///< sum over the neuron's weights of |w dL/dw|: LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), first order
};

/// W_j is column j of down_proj. Returns [ff], finite and >= 0. `flap` reads down_proj once, in blocks of rows. Throws FormatError when
/// the weight is missing or has another shape than `ffn` gives, MismatchError when the statistics lack what the method needs.
std::vector<float> neuron_scores(NeuronMethod method, const FfnStatistics& statistics, const Checkpoint& model, const DenseFfn& ffn, int64_t layer);

/// down_proj times the mean activations of the neurons that are not in `kept` (ascending), f32 [hidden]: FLAP's baseline bias compensation.
std::vector<float> compensating_bias(const std::vector<float>& mean, const std::vector<int64_t>& kept, const Checkpoint& model, const DenseFfn& ffn,
                                     int64_t layer);

}  // namespace overproof
