#include "evidence/distributions.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace overproof {
namespace {

const Json& golden() {
  static const Json json = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/statistics/statistics.json");
  return json;
}

/// Relative error of the probabilities whose logarithms these are.
double relative(double log_a, double log_b) { return std::abs(std::expm1(log_a - log_b)); }

}  // namespace

TEST_CASE("tail probabilities equal those of scipy and mpmath") {
  int checked = 0;
  for (const Json& row : golden()["tails"]) {
    const auto name = row[0].get<std::string>();
    const auto a = row[1].get<std::vector<double>>();
    const double expected = row[2].get<double>();
    CAPTURE(row.dump());
    double found = 0;
    if (name == "normal") found = log_normal_sf(a[0]);
    else if (name == "t") found = log_student_t_sf(a[0], a[1]);
    else if (name == "chi2") found = log_chi_squared_sf(a[0], a[1]);
    else if (name == "binomial") found = log_binomial_at_least(int64_t(a[0]), int64_t(a[1]), a[2]);
    else found = log_beta_regularised(a[0], a[1], a[2], 1 - a[2]);
    CHECK(relative(found, expected) < 1e-9);
    ++checked;
  }
  CHECK(checked == 45);
  CHECK(log_binomial_at_least(6, 5, 0.5) == -INFINITY);
  CHECK(log_binomial_at_least(0, 5, 0.5) == 0);
  // Where scipy has no digits left: 0.5^5000 exactly.
  CHECK(log_binomial_at_least(5000, 5000, 0.5) == Approx(-5000 * std::log(2.0)).epsilon(1e-12));
}

TEST_CASE("combined and adjusted p-values") {
  for (const Json& c : golden()["combined"]) {
    std::vector<double> logs;
    for (const double p : c["p"].get<std::vector<double>>()) logs.push_back(std::log(p));
    CHECK(relative(fisher_combined(logs), std::log(c["fisher"].get<double>())) < 1e-9);
    const std::vector<double> adjusted = holm_adjusted(logs);
    const auto expected = c["holm"].get<std::vector<double>>();
    for (size_t i = 0; i < logs.size(); ++i) CHECK(std::exp(adjusted[i]) == Approx(expected[i]).epsilon(1e-12));
  }
  CHECK(fisher_combined({}) == 0);
}

TEST_CASE("rank correlations, ties and full counts of small numbers of pairings") {
  for (const Json& c : golden()["spearman"]) {
    const auto x = c["x"].get<std::vector<double>>(), y = c["y"].get<std::vector<double>>();
    CAPTURE(x.size());
    CHECK(mid_ranks(y) == c["ranks"].get<std::vector<double>>());
    const RankTest test = rank_test(x, y);
    CHECK(test.rho == Approx(c["rho"].get<double>()).epsilon(1e-12));
    if (!c.contains("p")) continue;
    CHECK(test.exact);
    CHECK(std::exp(test.log_p) == Approx(c["p"].get<double>()).epsilon(1e-12));
    if (x.size() < 4) continue;
    const PermutationMoments m = permutation_moments(mid_ranks(x), mid_ranks(y));
    CHECK(m.variance == Approx(c["variance"].get<double>()).epsilon(1e-9));
    CHECK(m.excess_kurtosis == Approx(c["excess"].get<double>()).epsilon(1e-9));
  }
}

TEST_CASE("the curve beyond twelve pairs is right where it can be counted") {
  // At n = 12, where rank_test() counts, against the whole distribution.
  std::vector<double> ranks(12);
  std::iota(ranks.begin(), ranks.end(), 1.0);
  int checked = 0;
  for (const Json& row : golden()["twelve"]) {
    const double rho = row[0].get<double>(), log_p = row[1].get<double>(), curve = log_rank_curve(ranks, ranks, rho);
    CAPTURE(rho, log_p, curve);
    CHECK(curve - log_p > std::log(0.97));
    if (log_p > std::log(1e-3)) CHECK(curve - log_p < std::log(1.2));
    if (log_p > std::log(5e-3)) CHECK(curve - log_p < std::log(1.03));
    ++checked;
  }
  CHECK(checked > 100);
}

TEST_CASE("random pairings confirm the curve, whatever the number of threads") {
  Rng rng(3, "test/statistics");
  std::vector<double> x, y;
  for (int i = 0; i < 60; ++i) {
    x.push_back(double(i));
    y.push_back(0.02 * double(i) + rng.normal());
  }
  const int64_t draws = 40000, count = pairings_at_least(x, y, draws, 9);
  const double p = std::exp(rank_test(x, y).log_p), drawn = double(1 + count) / double(1 + draws);
  CHECK(p < 0.2);
  CHECK(std::abs(drawn - p) < 5 * std::sqrt(p / double(draws)) + 0.01 * p);
  set_thread_count(1);
  CHECK(pairings_at_least(x, y, draws, 9) == count);
  set_thread_count(0);
  CHECK(pairings_at_least(x, y, draws, 10) != count);
}

TEST_CASE("degenerate ranks have no significance") {
  const std::vector<double> rising{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, flat(14, 2.0);
  CHECK(rank_test(rising, flat).rho == 0);
  CHECK(std::exp(rank_test(rising, flat).log_p) >= 0.5);
  CHECK(rank_test(std::vector<double>{1, 2}, std::vector<double>{1, 2}).log_p == 0);
  // A perfect order of n is one of n! pairings, and no p may be smaller.
  CHECK(rank_test(rising, rising).log_p >= -std::lgamma(15.0) * 1.0000001);
  std::vector<double> rare(40, 0.0), places(40);
  std::iota(places.begin(), places.end(), 0.0);
  rare[39] = rare[38] = 1;  // far from normal: the heavy tail of the curve; by counting, 1 of 780 pairs is as high
  CHECK(std::exp(rank_test(places, rare).log_p) < 0.02);
  CHECK(std::exp(rank_test(places, rare).log_p) > 1.0 / 780);
}

TEST_CASE("residuals are free of the covariates and keep the rest") {
  Rng rng(6, "test/residuals");
  std::vector<double> a, b, y, noise;
  for (int i = 0; i < 200; ++i) {
    a.push_back(rng.normal());
    b.push_back(1e-3 * a.back() + rng.normal());
    noise.push_back(rng.normal());
    y.push_back(3 - 2 * a.back() + 0.5 * b.back() + noise.back());
  }
  const std::vector<double> rest = residuals(y, {a, b, a});  // the repeated column changes nothing
  CHECK(std::abs(correlation(rest, a)) < 1e-12);
  CHECK(std::abs(correlation(rest, b)) < 1e-12);
  CHECK(std::abs(std::accumulate(rest.begin(), rest.end(), 0.0)) < 1e-9);
  CHECK(correlation(rest, noise) > 0.97);
}

TEST_CASE("uniformity") {
  const Json& g = golden()["uniform"];
  const UniformityTest test = uniformity_test(g["values"].get<std::vector<double>>());
  CHECK(test.distance == Approx(g["distance"].get<double>()).epsilon(1e-12));
  CHECK(test.p == Approx(g["p"].get<double>()).epsilon(0.05));  // Stephens' correction goes beyond the asymptotic value
  CHECK(uniformity_test(std::vector<double>(200, 0.5)).p < 1e-9);
}

}  // namespace overproof
