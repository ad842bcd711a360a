#include "evaluate/bradley_terry.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "core/json.h"
#include "tests/support.h"

using namespace overproof;

namespace {

std::vector<Battle> battles_of(const Json& one) {
  std::vector<Battle> battles;
  for (const Json& b : one["battles"]) battles.push_back({b[0].get<int32_t>(), b[1].get<int32_t>(), b[2].get<double>(), b[3].get<int64_t>()});
  return battles;
}

}  // namespace

TEST_CASE("ratings are those of scikit-learn's logistic regression, and intervals those of numpy's bootstrap") {
  const Json golden = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/bradley_terry/ratings.json");
  for (const Json& one : golden["cases"]) {
    CAPTURE(one["name"].get<std::string>());
    const auto battles = battles_of(one);
    const auto models = one["models"].get<int64_t>();
    const Ratings ratings = bradley_terry(battles, models);
    CHECK(ratings.with_prior == one["with_prior"].get<bool>());
    double sum = 0;
    for (int64_t m = 0; m < models; ++m) {
      CHECK(ratings.values[size_t(m)] == Approx(one["ratings"][size_t(m)].get<double>()).margin(0.05));
      sum += ratings.values[size_t(m)];
    }
    CHECK(sum == Approx(1000.0 * double(models)).margin(1e-6));
    if (!one.contains("low")) continue;
    // Other random numbers: percentiles of 4,000 draws differ by a few points.
    const RatingIntervals intervals = rating_intervals(battles, models, one["prompts"].get<int64_t>(), 4000, 5);
    for (size_t m = 0; m < size_t(models); ++m) {
      const double width = one["high"][m].get<double>() - one["low"][m].get<double>();
      CHECK(intervals.low[m] == Approx(one["low"][m].get<double>()).margin(0.05 * width + 1e-6));
      CHECK(intervals.high[m] == Approx(one["high"][m].get<double>()).margin(0.05 * width + 1e-6));
      CHECK(intervals.low[m] <= ratings.values[m] + 1e-6);
      CHECK(intervals.high[m] >= ratings.values[m] - 1e-6);
    }
  }
}

TEST_CASE("ratings have the form that the model gives two models") {
  // 30 wins, 10 losses: odds of 3, whatever their order; two ties of each two wins change them as two halves.
  std::vector<Battle> battles;
  for (int64_t i = 0; i < 40; ++i) battles.push_back({0, 1, i < 30 ? 1.0 : 0.0, i});
  CHECK(bradley_terry(battles, 2).values[0] - bradley_terry(battles, 2).values[1] == Approx(400 * std::log10(3.0)));
  for (Battle& b : battles) b = {1, 0, 1 - b.score, b.prompt};
  CHECK(bradley_terry(battles, 2).values[0] - bradley_terry(battles, 2).values[1] == Approx(400 * std::log10(3.0)));
  std::vector<Battle> halves = {{0, 1, 1.0, 0}, {0, 1, 0.5, 1}};
  CHECK(bradley_terry(halves, 2).values[0] - bradley_terry(halves, 2).values[1] == Approx(400 * std::log10(3.0)));
  CHECK_FALSE(bradley_terry(halves, 2).with_prior);
  const Ratings all = bradley_terry({{0, 1, 1.0, 0}, {0, 1, 1.0, 1}}, 2);
  CHECK(all.with_prior);  // 2.25 wins against 0.25
  CHECK(all.values[0] - all.values[1] == Approx(400 * std::log10(9.0)));
}

TEST_CASE("intervals follow the seed, and are wide where a sample may have no finite maximum") {
  std::vector<Battle> battles;
  for (int64_t i = 0; i < 6; ++i) battles.push_back({0, 1, i == 0 ? 0.0 : 1.0, i});
  const RatingIntervals a = rating_intervals(battles, 2, 6, 500, 1), b = rating_intervals(battles, 2, 6, 500, 1), c = rating_intervals(battles, 2, 6, 500, 2);
  CHECK(a.low == b.low);
  CHECK(a.high == b.high);
  CHECK(a.draws_with_prior == b.draws_with_prior);
  CHECK(a.draws_with_prior > 100);  // (5/6)^6 of them have no loss
  CHECK((a.draws_with_prior != c.draws_with_prior || a.low != c.low));
  CHECK(std::isfinite(a.high[0]));
}
