#include "prune/expert_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"

namespace overproof {

std::vector<std::vector<int64_t>> super_experts(const std::vector<std::vector<float>>& largest) {
  std::vector<float> all;
  for (const auto& layer : largest) all.insert(all.end(), layer.begin(), layer.end());
  OVERPROOF_CHECK(!all.empty());
  std::ranges::sort(all);
  const double place = 0.995 * double(all.size() - 1);
  const auto below = size_t(place);
  const double upper = all[std::min(below + 1, all.size() - 1)], percentile = all[below] + (place - double(below)) * (upper - all[below]);
  std::vector<std::vector<int64_t>> result(largest.size());
  for (size_t l = 0; l < largest.size(); ++l)
    for (size_t e = 0; e < largest[l].size(); ++e)
      if (largest[l][e] > percentile && largest[l][e] > 0.1 * double(all.back())) result[l].push_back(int64_t(e));
  return result;
}

std::vector<int64_t> best_experts(const std::vector<double>& scores, int64_t count, const std::vector<int64_t>& always) {
  OVERPROOF_CHECK(int64_t(always.size()) <= count && count <= int64_t(scores.size()));
  std::vector<int64_t> others;
  for (int64_t e = 0; e < int64_t(scores.size()); ++e)
    if (!std::ranges::binary_search(always, e)) others.push_back(e);
  std::ranges::stable_sort(others, [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
  others.resize(size_t(count) - always.size());
  others.insert(others.end(), always.begin(), always.end());
  std::ranges::sort(others);
  return others;
}

std::vector<std::vector<int64_t>> average_linkage(const std::vector<float>& vectors, int64_t n, int64_t count, const std::vector<int64_t>& alone) {
  OVERPROOF_CHECK(n > 0 && int64_t(vectors.size()) % n == 0 && count >= 1 && count <= n &&
                  (count > int64_t(alone.size()) || count == n));
  const auto width = int64_t(vectors.size()) / n;
  std::vector<double> distance(size_t(n * n), 0.0);  // between clusters, by their first members
  for (int64_t a = 0; a < n; ++a)
    for (int64_t b = a + 1; b < n; ++b) {
      double sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        const double d = double(vectors[size_t(a * width + i)]) - vectors[size_t(b * width + i)];
        sum += d * d;
      }
      distance[size_t(a * n + b)] = distance[size_t(b * n + a)] = std::sqrt(sum);
    }
  std::vector<std::vector<int64_t>> clusters;
  for (int64_t e = 0; e < n; ++e) clusters.push_back({e});
  const auto merges = [&](const std::vector<int64_t>& c) { return !c.empty() && !std::ranges::binary_search(alone, c[0]); };
  for (int64_t left = n; left > count; --left) {
    throw_if_interrupted();
    int64_t into = -1, from = -1;
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = a + 1; b < n && merges(clusters[size_t(a)]); ++b)
        if (merges(clusters[size_t(b)]) && (into < 0 || distance[size_t(a * n + b)] < distance[size_t(into * n + from)])) into = a, from = b;
    auto &first = clusters[size_t(into)], &second = clusters[size_t(from)];
    // The mean over all pairs of members follows from those of the two clusters.
    const double x = double(first.size()), y = double(second.size());
    for (int64_t c = 0; c < n; ++c) {
      const double d = (x * distance[size_t(into * n + c)] + y * distance[size_t(from * n + c)]) / (x + y);
      distance[size_t(into * n + c)] = distance[size_t(c * n + into)] = d;
    }
    first.insert(first.end(), second.begin(), second.end());
    std::ranges::sort(first);
    second.clear();
  }
  std::erase_if(clusters, [](const auto& c) { return c.empty(); });
  return clusters;
}

}  // namespace overproof
