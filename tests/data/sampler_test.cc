#include "data/sampler.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"

namespace overproof {
namespace {

/// The definition: all ids sorted, then cut and drawn.
int32_t by_full_sort(const std::vector<float>& logits, const SamplingOptions& options, double uniform) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  if (options.temperature == 0) return ids[0];
  std::vector<double> cumulative;
  double total = 0;
  for (const int32_t id : ids)
    cumulative.push_back(total += std::exp((double(logits[size_t(id)]) - double(logits[size_t(ids[0])])) / options.temperature));
  const auto reaches = [&](double mass) {
    return std::min<size_t>(size_t(std::lower_bound(cumulative.begin(), cumulative.end(), mass) - cumulative.begin()),
                            ids.size() - 1);
  };
  return ids[reaches(uniform * cumulative[reaches(options.top_p * total)])];
}

}  // namespace

TEST_CASE("sorting only the top of the vocabulary draws what sorting all of it draws") {
  Rng values(5, "test/sampler/logits");
  for (const size_t vocabulary : {size_t(1), size_t(3), size_t(64), size_t(65), size_t(2000)})
    for (const double temperature : {0.0, 0.3, 1.0, 5.0})
      for (const double top_p : {1e-6, 0.5, 0.95, 1.0})
        for (uint64_t round = 0; round < 40; ++round) {
          std::vector<float> logits(vocabulary);
          for (float& x : logits) x = float(std::round(4 * values.normal()) / 2);  // many equals
          const SamplingOptions options{temperature, top_p, 0};
          Rng ours(round, "draw"), theirs(round, "draw");
          REQUIRE(sample_token(logits, {}, options, nullptr, ours) == by_full_sort(logits, options, theirs.uniform()));
        }
}

TEST_CASE("logits that are not finite are refused, not sampled") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
    for (const double temperature : {0.0, 1.0}) {
      std::vector<float> logits(50, 0.5f);
      logits[17] = bad;
      Rng rng(1, "draw");
      CHECK_THROWS_AS(sample_token(logits, {}, {temperature, 1.0, 0}, nullptr, rng), DivergenceError);
      const std::vector<int32_t> before = {17, 3};
      CHECK_THROWS_AS(sample_token(logits, before, {.temperature = temperature, .repetition_penalty = 1.1}, nullptr, rng), DivergenceError);
    }
}

TEST_CASE("a repetition penalty divides positive and multiplies negative logits of ids that were there, each once") {
  Rng rng(1, "draw");
  const std::vector<int32_t> before = {2, 0, 2, 2, 700, -1};
  const auto chosen = [&](std::vector<float> logits, double penalty) {
    return sample_token(logits, before, {.temperature = 0, .repetition_penalty = penalty}, nullptr, rng);
  };
  CHECK(chosen({1.0f, 1.5f, 2.0f, -4.0f}, 1.0) == 2);
  CHECK(chosen({1.0f, 1.5f, 2.0f, -4.0f}, 1.3) == 2);  // 2 / 1.3 = 1.54: once, not three times
  CHECK(chosen({1.0f, 1.5f, 2.0f, -4.0f}, 1.4) == 1);
  CHECK(chosen({-1.0f, -1.2f, -9.0f, -4.0f}, 1.1) == 0);
  CHECK(chosen({-1.0f, -1.2f, -9.0f, -4.0f}, 1.3) == 1);
  CHECK(chosen({kExcludedLogit, -1.2f, kExcludedLogit, -4.0f}, 1.3) == 1);
  // In a draw: of equal logits the ids that were there have the share exp(1 / 2) / (exp(1 / 2) + exp(1)) of the mass.
  int64_t penalised = 0;
  for (int i = 0; i < 20'000; ++i)
    penalised += sample_token(std::vector<float>{1.0f, 1.0f}, std::vector<int32_t>{1}, {.repetition_penalty = 2}, nullptr, rng);
  CHECK(double(penalised) / 20'000 == Approx(1 / (1 + std::exp(0.5))).margin(0.015));
}

TEST_CASE("an excluded id is not drawn") {
  std::vector<float> logits(100, 0.0f);
  for (size_t i = 0; i < 99; ++i) logits[i] = kExcludedLogit;
  Rng rng(1, "draw");
  for (int i = 0; i < 200; ++i) CHECK(sample_token(logits, {}, {1.0, 1.0, 0}, nullptr, rng) == 99);
  CHECK(sample_token(logits, {}, {0.0, 1.0, 0}, nullptr, rng) == 99);
}

}  // namespace overproof
