#pragma once
// GPTQ at 8 bits (Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
// algorithm 1): the columns of a weight are rounded one after another, and what rounding one took is made good for in those
// that are still to come, so that the error of the output, tr(dW H dW^T), falls; the error of the weight itself grows a little.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quantize/scheme.h"

namespace overproof {

/// What all rows of all weights with one input share: the factor of the inverse Hessian.
struct GptqFactor {
  int64_t columns = 0;
  std::vector<float> upper;     ///< [in, in]: U upper triangular with U^T U = (H + damping)^-1, each row divided by its diagonal
  std::vector<float> diagonal;  ///< [in]: of U before that division
  std::vector<int32_t> order;   ///< [in]: column i of U is column order[i] of the weight; empty: as they stand
  double damping = 0;           ///< what was added to H's diagonal
};

struct GptqOptions {
  double dampening = 0.01;  ///< of the mean of H's diagonal, added to the diagonal
  bool act_order = false;   ///< the columns with the largest inputs first (the peer's `actorder=static`)
};

/// hessian [in, in], symmetric, in ascending columns of the weight. One Cholesky factorisation in double: with columns reversed,
/// H = R R^T for an upper triangular R, and U = R^-1. If H is too near to singular the dampening is raised tenfold, up to 1; null
/// when that does not help either (then the weight is rounded without). Same result for any number of threads.
std::shared_ptr<const GptqFactor> gptq_factor(std::span<const float> hessian, int64_t columns, const GptqOptions& options);

/// Rounds rows [rows, in], which are changed to their rounded values. scales [rows, groups]: one for each in / groups columns,
/// fixed beforehand. codes [rows, in]. Each row depends on itself alone. One thread: the caller has rows for many. Returns sum
/// over rows of the loss that the paper's equation 2 adds up: tr(dW (H + damping) dW^T).
double gptq_rows(const GptqFactor& factor, std::span<float> x, std::span<const float> scales, int64_t rows,
                 std::span<int8_t> codes);

/// Makes the codes of inner's rows by GPTQ; inner chooses the scales and the layout. Only for schemes with an int8_layout().
std::unique_ptr<RowQuantizer> gptq_quantizer(const Scheme& scheme, const TensorInfo& weight, std::unique_ptr<RowQuantizer> inner,
                                             std::shared_ptr<const GptqFactor> factor);

}  // namespace overproof
