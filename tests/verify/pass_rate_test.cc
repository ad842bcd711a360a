#include "verify/pass_rate.h"

#include <catch2/catch.hpp>

#include "core/json.h"

using namespace overproof;

TEST_CASE("Wilson's interval is that of scipy") {
  // tests/golden/intervals/generate.py
  const Json golden = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/intervals/intervals.json");
  CHECK(golden.size() > 20);
  for (const Json& row : golden) {
    const Interval interval = wilson_interval(row["successes"], row["trials"]);
    CHECK(interval.low == Approx(row["low"].get<double>()).margin(1e-12));
    CHECK(interval.high == Approx(row["high"].get<double>()).margin(1e-12));
  }
}

TEST_CASE("a pass rate counts what is unknown as not correct, and draws tasks where they have several completions") {
  CHECK(pass_rate({}).rate == 0);
  CHECK(pass_rate({}).high == 1);
  const PassRate single = pass_rate({{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 0, 0}});
  CHECK(single.rate == 0.5);
  CHECK(single.method == "wilson");
  CHECK(single.solved == 2);
  CHECK(single.all.unknown == 1);
  // All completions of a task alike: the interval is that of the tasks, not of ten times as many independent completions.
  std::vector<TaskTally> alike, mixed;
  for (int i = 0; i < 100; ++i) alike.push_back(i % 2 ? TaskTally{10, 0, 0} : TaskTally{0, 10, 0}), mixed.push_back({5, 5, 0});
  const PassRate wide = pass_rate(alike);
  CHECK(wide.method == "bootstrap over tasks");
  CHECK(wide.rate == 0.5);
  const Interval of_tasks = wilson_interval(50, 100);
  CHECK(wide.low == Approx(of_tasks.low).margin(0.02));
  CHECK(wide.high == Approx(of_tasks.high).margin(0.02));
  CHECK(pass_rate(mixed).low == 0.5);
}
