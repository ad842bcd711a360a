#pragma once
// The share of completions that are correct, with its confidence interval.

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace overproof {

/// Verdicts of the completions of one task.
struct TaskTally {
  int64_t correct = 0, wrong = 0, unknown = 0;
  int64_t completions() const { return correct + wrong + unknown; }
};

struct PassRate {
  int64_t tasks = 0, solved = 0;  ///< solved: with at least one correct completion
  TaskTally all;
  double rate = 0, low = 0, high = 1;  ///< correct / completions; a 95 % interval
  std::string method;                  ///< of the interval: "wilson" or "bootstrap over tasks"
  Json to_json() const;
  std::string text() const;  ///< "pass rate 45.0 % (95 % interval 38.3 to 51.9 %): 90 of 200 completions correct, 100 wrong, 10 unknown"
};

/// The interval of `successes` of `trials` > 0 by Wilson (1927), at 95 %.
struct Interval {
  double low, high;
};
Interval wilson_interval(int64_t successes, int64_t trials);

/// With one completion a task, Wilson's interval. With more, completions of one task are not independent: percentiles of 2,000 draws of
/// tasks with replacement, by a fixed seed. Without completions the rate is 0 and the interval all of [0, 1].
PassRate pass_rate(const std::vector<TaskTally>& tasks);

}  // namespace overproof
