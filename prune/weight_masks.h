#pragma once
// Sets weights of a matrix to zero: which, by magnitude or by Wanda, and SparseGPT, which also changes the ones that stay.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "records/hessian_factor.h"

namespace overproof {

enum class WeightMethod {
  magnitude,  ///< |W_ij|, compared over the whole matrix
  wanda,      ///< |W_ij| ||X_j||, compared within a row: Wanda (Sun et al. 2023, arXiv 2306.11695, equation 1)
  sparsegpt,  ///< SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1)
};

/// How much becomes zero: a share of all weights, or `zeros` of every `group` neighbours in a row.
struct WeightPattern {
  double share = 0.5;
  int64_t zeros = 0, group = 0;  ///< group 0: by share
  /// "0.5" or "2:4". Throws UsageError for anything else, a share outside [0, 1], or as many zeros as the group has.
  static WeightPattern parse(const std::string& text);
};

/// Zeros the weights of w [rows, columns] with the lowest |w| x scale[column]; of equals the first. scale: [columns], or empty for ones.
/// By share, floor(share x n) of each row, or of the whole matrix where `over_all`. With a group, columns is a multiple of it.
void zero_lowest(std::span<float> w, int64_t rows, int64_t columns, std::span<const float> scale, const WeightPattern& pattern, bool over_all);

/// SparseGPT: goes through blocks of 128 columns; in each the weights with the lowest w^2 / [H^-1]_cc become zero (of every group where the
/// pattern has one, chosen when the group is reached), and what that changes in the output is compensated in all later columns. Factor without
/// act_order. Same result for any number of threads. Returns the sum of w^2 / [H^-1]_cc over what became
/// zero: the paper's estimate of the error.
double sparse_gpt(std::span<float> w, int64_t rows, const HessianFactor& factor, const WeightPattern& pattern);

}  // namespace overproof
