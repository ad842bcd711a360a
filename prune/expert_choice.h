#pragma once
// Which experts of a mixture stay, or become one, by what they did on a sample (records/expert_statistics.h).

#include <cstdint>
#include <vector>

#include "prune/expert_cut.h"
#include "records/expert_statistics.h"

namespace overproof {

/// Super experts (Su et al. 2025, arXiv 2507.23279): those whose largest output element, on tokens that were sent to them, is above the 99.5th
/// percentile of all experts of all layers (interpolated linearly) and above a tenth of the largest one. The paper also asks for layers in
/// which massive activations form, which is not asked for here, so more experts may be protected. largest [layers][experts] -> as large, ascending.
std::vector<std::vector<int64_t>> super_experts(const std::vector<std::vector<float>>& largest);

/// The `count` experts with the highest score, of equals the first, and all of `always` (ascending, at most `count`) among them. Ascending.
std::vector<int64_t> best_experts(const std::vector<double>& scores, int64_t count, const std::vector<int64_t>& always);

/// Agglomerative clustering with average linkage of the rows of `vectors` [n, width], by Euclidean distance, as HC-SMoE (Chen et al. 2024, arXiv
/// 2410.08589) does with the experts' mean outputs: the two clusters whose members have the least mean distance become one, until `count` are left.
/// The rows in `alone` stay clusters of their own. Returns clusters, each ascending, in the order of their first members. Time n^3.
std::vector<std::vector<int64_t>> average_linkage(const std::vector<float>& vectors, int64_t n, int64_t count, const std::vector<int64_t>& alone);

}  // namespace overproof
