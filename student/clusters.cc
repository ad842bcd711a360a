#include "student/clusters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/rng.h"
#include "model/host_values.h"

namespace overproof {
namespace {

constexpr int kMostSwapRounds = 64;

// Rows in the order of their regret (best score - second best); each takes the best cluster that still has room.
std::vector<int64_t> greedy_assignment(const float* scores, int64_t rows, int64_t clusters) {
  std::vector<float> regret(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const float* s = scores + r * clusters;
    float best = s[0], second = -std::numeric_limits<float>::infinity();
    for (int64_t c = 1; c < clusters; ++c) {
      second = std::max(second, std::min(best, s[c]));
      best = std::max(best, s[c]);
    }
    regret[size_t(r)] = clusters > 1 ? best - second : 0.0f;
  }
  std::vector<int64_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return regret[size_t(a)] > regret[size_t(b)]; });

  std::vector<int64_t> room(static_cast<size_t>(clusters), rows / clusters), chosen(static_cast<size_t>(rows));
  for (const int64_t r : order) {
    const float* s = scores + r * clusters;
    int64_t best = -1;
    for (int64_t c = 0; c < clusters; ++c)
      if (room[size_t(c)] > 0 && (best < 0 || s[c] > s[best])) best = c;
    chosen[size_t(r)] = best;
    --room[size_t(best)];
  }
  return chosen;
}

// Swaps the two rows of clusters a and b whose exchange increases the sum of scores most; false when none does.
bool swap_best(const float* scores, int64_t clusters, int64_t a, int64_t b, std::vector<int64_t>& chosen) {
  constexpr float kLeastGain = 1e-6f;  // a smaller gain may be rounding, and swaps would not end
  int64_t from_a = -1, from_b = -1;
  float gain_a = 0, gain_b = 0;
  for (int64_t r = 0; r < int64_t(chosen.size()); ++r) {
    const float* s = scores + r * clusters;
    if (chosen[size_t(r)] == a && (from_a < 0 || s[b] - s[a] > gain_a)) from_a = r, gain_a = s[b] - s[a];
    if (chosen[size_t(r)] == b && (from_b < 0 || s[a] - s[b] > gain_b)) from_b = r, gain_b = s[a] - s[b];
  }
  if (from_a < 0 || from_b < 0 || !(gain_a + gain_b > kLeastGain)) return false;  // nor is NaN a gain
  std::swap(chosen[size_t(from_a)], chosen[size_t(from_b)]);
  return true;
}

// k-means++ (Arthur and Vassilvitskii 2007): each next centre is drawn with a probability proportional to its squared
// distance from the nearest centre. squared_distances(row): F64 [rows] of all rows from that one.
template <class Distances>
at::Tensor first_centres(const at::Tensor& profiles, int64_t clusters, uint64_t seed, uint64_t substream, const Distances& squared_distances) {
  Rng rng(seed, "carve/kmeans", substream);
  const int64_t rows = profiles.size(0);
  std::vector<int64_t> picked = {int64_t(rng.below(uint64_t(rows)))};
  at::Tensor distance = at::full({rows}, std::numeric_limits<double>::infinity(), at::kDouble);
  while (int64_t(picked.size()) < clusters) {
    distance = at::minimum(distance, squared_distances(picked.back()));
    distance[picked.back()] = 0.0;
    const std::span<const double> weight = host_values<double>(distance);
    double left = rng.uniform() * std::accumulate(weight.begin(), weight.end(), 0.0);
    int64_t next = -1;
    for (int64_t r = 0; r < rows; ++r) {
      if (weight[size_t(r)] <= 0.0) continue;
      next = r;
      left -= weight[size_t(r)];
      if (left < 0.0) break;
    }
    if (next < 0) next = int64_t(picked.size()) % rows;  // all rows are equal
    picked.push_back(next);
  }
  return profiles.index_select(0, at::tensor(picked));
}

}  // namespace

std::vector<int64_t> balanced_assignment(const at::Tensor& scores) {
  const at::Tensor s = scores.contiguous();
  const int64_t rows = s.size(0), clusters = s.size(1);
  OVERPROOF_CHECK(clusters > 0 && rows % clusters == 0);
  const float* values = host_values<float>(s).data();
  std::vector<int64_t> chosen = greedy_assignment(values, rows, clusters);
  for (int round = 0; round < kMostSwapRounds; ++round) {
    throw_if_interrupted();
    bool any = false;
    for (int64_t a = 0; a < clusters; ++a)
      for (int64_t b = a + 1; b < clusters; ++b)
        while (swap_best(values, clusters, a, b, chosen)) any = true;
    if (!any) break;
  }
  return chosen;
}

std::vector<int64_t> balanced_kmeans(const at::Tensor& profiles, int64_t clusters, int64_t iterations, uint64_t seed,
                                     uint64_t substream) {
  at::Tensor centres = first_centres(profiles, clusters, seed, substream, [&](int64_t row) {
    return (2.0 - 2.0 * at::matmul(profiles, profiles[row])).to(at::kDouble).clamp_min(0.0);  // ||a - b||^2 of unit vectors
  });
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < iterations; ++i) {
    std::vector<int64_t> next = balanced_assignment(at::matmul(profiles, centres.t()));
    if (next == chosen) break;
    chosen = std::move(next);
    centres = at::zeros_like(centres).index_add_(0, at::tensor(chosen), profiles);
    centres.div_(centres.norm(2, {1}, true).clamp_min(1e-20));
  }
  return chosen;
}

at::Tensor euclidean_centres(const at::Tensor& profiles, int64_t clusters, uint64_t seed, uint64_t substream) {
  return first_centres(profiles, clusters, seed, substream,
                       [&](int64_t row) { return (profiles - profiles[row]).square().sum(1, false, at::kDouble); });
}

EuclideanClusters balanced_euclidean_kmeans(const at::Tensor& profiles, at::Tensor centres, int64_t iterations) {
  const double size = double(profiles.size(0)) / double(centres.size(0));
  EuclideanClusters made;
  for (int64_t i = 0; i < iterations; ++i) {
    const at::Tensor squares = profiles.square().sum(1, true) + centres.square().sum(1) - 2 * at::matmul(profiles, centres.t());
    std::vector<int64_t> next = balanced_assignment(-squares.clamp_min(0).sqrt());
    if (next == made.cluster) break;
    made.cluster = std::move(next);
    centres = at::zeros_like(centres).index_add_(0, at::tensor(made.cluster), profiles) / size;
  }
  made.centres = centres;
  return made;
}

}  // namespace overproof
