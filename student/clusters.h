#pragma once
// Clusters of equal size: neurons that fire together go into one expert.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace overproof {

/// The cluster of each row so that each of `scores`' columns gets rows / clusters rows, with a large sum of scores.
/// scores f32 [rows, clusters]. Rows choose by how much they would lose, then pairs are swapped until no swap gains.
std::vector<int64_t> balanced_assignment(const at::Tensor& scores);

/// Spherical k-means with clusters of equal size. profiles f32 [rows, features], rows of unit length; `clusters` divides
/// rows. Starts as k-means++ does, with draws of (seed, substream) only, so the result is the same on any machine.
std::vector<int64_t> balanced_kmeans(const at::Tensor& profiles, int64_t clusters, int64_t iterations, uint64_t seed,
                                     uint64_t substream);

}  // namespace overproof
