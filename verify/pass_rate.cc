#include "verify/pass_rate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace overproof {
namespace {

constexpr int kDraws = 2000;

}  // namespace

Interval wilson_interval(int64_t successes, int64_t trials) {
  constexpr double z = 1.959963984540054;  // of 97.5 % of a normal distribution
  const double n = double(trials), p = double(successes) / n;
  const double center = p + z * z / (2 * n), half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n)), scale = 1 + z * z / n;
  return {successes == 0 ? 0 : (center - half) / scale, successes == trials ? 1 : (center + half) / scale};
}

PassRate pass_rate(const std::vector<TaskTally>& tasks) {
  PassRate result;
  result.tasks = int64_t(tasks.size());
  bool single = true;
  for (const TaskTally& task : tasks) {
    result.all.correct += task.correct;
    result.all.wrong += task.wrong;
    result.all.unknown += task.unknown;
    result.solved += task.correct > 0;
    single &= task.completions() <= 1;
  }
  const int64_t trials = result.all.completions();
  result.method = single ? "wilson" : "bootstrap over tasks";
  if (trials == 0) return result;
  result.rate = double(result.all.correct) / double(trials);
  if (single) {
    const Interval interval = wilson_interval(result.all.correct, trials);
    result.low = interval.low, result.high = interval.high;
    return result;
  }
  Rng rng(0, "verify/bootstrap");
  std::vector<double> rates;
  for (int draw = 0; draw < kDraws; ++draw) {
    int64_t correct = 0, all = 0;
    for (size_t i = 0; i < tasks.size(); ++i) {
      const TaskTally& task = tasks[size_t(rng.below(tasks.size()))];
      correct += task.correct;
      all += task.completions();
    }
    if (all > 0) rates.push_back(double(correct) / double(all));
  }
  std::ranges::sort(rates);
  const auto at = [&](double share) { return rates[size_t(share * double(rates.size() - 1) + 0.5)]; };
  result.low = at(0.025), result.high = at(0.975);
  return result;
}

Json PassRate::to_json() const {
  return {{"tasks", tasks},     {"solved", solved}, {"completions", all.completions()}, {"correct", all.correct}, {"wrong", all.wrong},
          {"unknown", all.unknown}, {"rate", rate}, {"low", low},                       {"high", high},           {"interval", method}};
}

std::string PassRate::text() const {
  return fmt::format("pass rate {:.1f} % (95 % interval {:.1f} to {:.1f} %): {} of {} completions correct, {} wrong, {} unknown; {} of {} tasks solved",
                     100 * rate, 100 * low, 100 * high, all.correct, all.completions(), all.wrong, all.unknown, solved, tasks);
}

}  // namespace overproof
