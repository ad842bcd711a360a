#pragma once
// The factor of a recorded Hessian (records/activation_statistics.h) by which errors of some columns of a weight are compensated in
// later ones: GPTQ (Frantar et al. 2022, algorithm 1) and SparseGPT (Frantar and Alistarh 2023, algorithm 1) use the same.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace overproof {

/// Factor of the inverse Hessian; shared by all rows of all weights with the same input.
struct HessianFactor {
  int64_t columns = 0;
  std::vector<float> upper;     ///< [in, in]: U upper triangular with U^T U = (H + damping)^-1, each row divided by its diagonal
  std::vector<float> diagonal;  ///< [in]: of U before that division
  std::vector<int32_t> order;   ///< [in]: column i of U is column order[i] of the weight; empty: in ascending order
  double damping = 0;           ///< the value added to H's diagonal
};

struct FactorOptions {
  double dampening = 0.01;  ///< of the mean of H's diagonal, added to the diagonal
  bool act_order = false;   ///< columns with the largest inputs first (compressed-tensors' `actorder=static`)
};

/// hessian [in, in], symmetric, in ascending columns of the weight. One Cholesky factorisation in double: with columns reversed,
/// H = R R^T for an upper triangular R, and U = R^-1. If H is nearly singular, the dampening is raised tenfold, up to 1; null
/// when that does not suffice. Same result for any number of threads.
std::shared_ptr<const HessianFactor> hessian_factor(std::span<const float> hessian, int64_t columns, const FactorOptions& options);

}  // namespace overproof
