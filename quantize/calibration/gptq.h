#pragma once
// GPTQ at 8 bits (Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
// algorithm 1): rounds the columns of a weight one after another and compensates the rounding error of each in the later
// ones. This lowers the error of the output, tr(dW H dW^T), and raises that of the weight itself a little.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "records/hessian_factor.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

/// Rounds rows [rows, in] in place to their dequantized values. scales [rows, groups]: one for each in / groups columns,
/// fixed beforehand. codes [rows, in]. Rows are independent. Single-threaded: callers run rows in parallel. Returns
/// the sum over rows of the loss of the paper's equation 2: tr(dW (H + damping) dW^T).
double gptq_rows(const HessianFactor& factor, std::span<float> x, std::span<const float> scales, int64_t rows,
                 std::span<int8_t> codes);

/// Makes the codes of inner's rows by GPTQ; inner chooses the scales and the layout. Only for schemes with an int8_layout().
std::unique_ptr<RowQuantizer> gptq_quantizer(const Scheme& scheme, const TensorInfo& weight, std::unique_ptr<RowQuantizer> inner,
                                             std::shared_ptr<const HessianFactor> factor);

}  // namespace overproof
