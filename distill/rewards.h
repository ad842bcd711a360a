#pragma once
// What a completion earns, and by how much it is better than others of the same task.
//
//   reward     1 where its verifier finds it correct, else 0: what cannot be decided earns nothing
//   advantage  of each of the G completions of a task, (r - mean) / std, with the standard deviation of the group itself (divisor G), and 0 where all
//              have one reward: they show no difference to learn (Shao et al. 2024, "DeepSeekMath", section 4.1.2)
// Every token of a completion has its advantage. As every batch is written by the weights that it trains, the ratio of the two policies is 1: there is nothing
// to clip, and no old policy. The loss is a mean over all tokens that were written in the step, not first over each completion (as in Yu et al.
// 2025, "DAPO", section 3.3), and there is no divergence from a reference other than that from the teacher, which is a loss of its own.

#include <span>
#include <vector>

#include "verify/verdict.h"

namespace overproof {

inline float reward_of(TaskVerdict verdict) { return verdict == TaskVerdict::correct ? 1.0f : 0.0f; }

/// Advantages of `rewards`, consecutive groups of `group`; rewards.size() is a multiple of it.
std::vector<float> group_advantages(std::span<const float> rewards, size_t group);

}  // namespace overproof
