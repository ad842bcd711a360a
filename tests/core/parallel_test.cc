#include "core/parallel.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace overproof {
namespace {

using Pieces = std::vector<std::pair<int64_t, int64_t>>;

/// The pieces of a loop, in the order of their beginnings.
Pieces pieces_of(int64_t n, int64_t grain) {
  std::mutex mutex;
  Pieces pieces;
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    pieces.emplace_back(begin, end);
  });
  std::sort(pieces.begin(), pieces.end());
  return pieces;
}

/// As another library's threads would: all at once.
void on_own_threads(int64_t threads, const std::function<void()>& work) {
  std::vector<std::jthread> all;
  for (int64_t t = 0; t < threads; ++t) all.emplace_back(work);
}

struct Runner {
  explicit Runner(TeamRunner runner) { set_team_runner(runner); }
  ~Runner() { set_team_runner(nullptr); }
};

}  // namespace

TEST_CASE("the pieces of a loop depend on the grain alone, on any threads") {
  const Pieces expected = {{0, 3}, {3, 6}, {6, 7}};
  CHECK(pieces_of(7, 3) == expected);
  for (const TeamRunner runner : {TeamRunner(on_own_threads), TeamRunner([](int64_t, const std::function<void()>& work) { work(); })}) {
    const Runner set(runner);
    CHECK(pieces_of(7, 3) == expected);
    CHECK(pieces_of(0, 3).empty());
    // The exception of the first piece that threw, whichever thread it was on; loops may be nested.
    CHECK_THROWS_WITH(parallel_for(100, 1,
                                   [](int64_t begin, int64_t) {
                                     parallel_for(1, 1, [&](int64_t, int64_t) {
                                       if (begin >= 40) throw std::runtime_error(begin == 40 ? "forty" : "later");
                                     });
                                   }),
                      "forty");
  }
}

}  // namespace overproof
