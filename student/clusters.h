#pragma once
// Clusters of equal size: neurons that are active on the same tokens form one expert.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace overproof {

/// Assigns rows / clusters rows to each cluster, with a large sum of scores. scores f32 [rows, clusters]; `clusters` divides rows.
/// Returns the cluster of each row. Greedy in the order of regret (best score - second best), then pairs of rows are swapped until no
/// swap increases the sum.
std::vector<int64_t> balanced_assignment(const at::Tensor& scores);

/// Spherical k-means with clusters of equal size. profiles f32 [rows, features], rows of unit length; `clusters` divides rows.
/// Centres are initialised by k-means++ with draws that depend on (seed, substream) only.
std::vector<int64_t> balanced_kmeans(const at::Tensor& profiles, int64_t clusters, int64_t iterations, uint64_t seed,
                                     uint64_t substream);

}  // namespace overproof
