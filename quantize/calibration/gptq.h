#pragma once
// GPTQ at 8 bits (Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
// algorithm 1): rounds the columns of a weight one after another and compensates the rounding error of each in the later
// ones. This lowers the error of the output, tr(dW H dW^T), and raises that of the weight itself a little.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quantize/schemes/scheme.h"

namespace overproof {

/// Factor of the inverse Hessian; shared by all rows of all weights with the same input.
struct GptqFactor {
  int64_t columns = 0;
  std::vector<float> upper;     ///< [in, in]: U upper triangular with U^T U = (H + damping)^-1, each row divided by its diagonal
  std::vector<float> diagonal;  ///< [in]: of U before that division
  std::vector<int32_t> order;   ///< [in]: column i of U is column order[i] of the weight; empty: in ascending order
  double damping = 0;           ///< the value added to H's diagonal
};

struct GptqOptions {
  double dampening = 0.01;  ///< of the mean of H's diagonal, added to the diagonal
  bool act_order = false;   ///< columns with the largest inputs first (compressed-tensors' `actorder=static`)
};

/// hessian [in, in], symmetric, in ascending columns of the weight. One Cholesky factorisation in double: with columns reversed,
/// H = R R^T for an upper triangular R, and U = R^-1. If H is nearly singular, the dampening is raised tenfold, up to 1; null
/// when that does not suffice (the weight is then rounded without GPTQ). Same result for any number of threads.
std::shared_ptr<const GptqFactor> gptq_factor(std::span<const float> hessian, int64_t columns, const GptqOptions& options);

/// Rounds rows [rows, in] in place to their dequantized values. scales [rows, groups]: one for each in / groups columns,
/// fixed beforehand. codes [rows, in]. Rows are independent. Single-threaded: callers run rows in parallel. Returns
/// the sum over rows of the loss of the paper's equation 2: tr(dW (H + damping) dW^T).
double gptq_rows(const GptqFactor& factor, std::span<float> x, std::span<const float> scales, int64_t rows,
                 std::span<int8_t> codes);

/// Makes the codes of inner's rows by GPTQ; inner chooses the scales and the layout. Only for schemes with an int8_layout().
std::unique_ptr<RowQuantizer> gptq_quantizer(const Scheme& scheme, const TensorInfo& weight, std::unique_ptr<RowQuantizer> inner,
                                             std::shared_ptr<const GptqFactor> factor);

}  // namespace overproof
