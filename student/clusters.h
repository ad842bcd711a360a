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

/// k-means with clusters of equal size by Euclidean distance, as published methods have it (student/carve_methods.h).
struct EuclideanClusters {
  std::vector<int64_t> cluster;  ///< of each row
  at::Tensor centres;            ///< f32 [clusters, features], the means of the rows
};
/// From `centres` f32 [clusters, features]; `clusters` divides the rows of profiles f32 [rows, features].
EuclideanClusters balanced_euclidean_kmeans(const at::Tensor& profiles, at::Tensor centres, int64_t iterations);
/// Rows of `profiles` as first centres, by k-means++ with draws that depend on (seed, substream) only.
at::Tensor euclidean_centres(const at::Tensor& profiles, int64_t clusters, uint64_t seed, uint64_t substream);

}  // namespace overproof
