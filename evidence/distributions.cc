#include "evidence/distributions.h"

#include <boost/math/special_functions/beta.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <boost/math/tools/fraction.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace overproof {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLogTwo = 0.693147180559945309417;
constexpr size_t kCountedPairs = 12;

/// Probabilities below what a long double holds are 0, no error.
constexpr auto kQuiet =
    boost::math::policies::make_policy(boost::math::policies::underflow_error<boost::math::policies::ignore_error>(),
                                       boost::math::policies::overflow_error<boost::math::policies::ignore_error>(),
                                       boost::math::policies::evaluation_error<boost::math::policies::ignore_error>());

double log_gamma(double x) { return boost::math::lgamma(x); }

/// log(1 - exp(l)) for l <= 0.
double log_complement(double l) { return l > -kLogTwo ? std::log(-std::expm1(l)) : std::log1p(-std::exp(l)); }

/// What a long double holds of a probability is its own logarithm; far below that (1e-4932 on x86), the continued fraction of the
/// tail gives the logarithm without the probability.
constexpr long double kLeast = 1e-4000L;

/// Terms of a continued fraction b0 + a1 / (b1 + a2 / (b2 + ...)), as boost::math::tools::continued_fraction_b asks for them.
template <class Term>
struct Fraction {
  using result_type = std::pair<double, double>;
  Term term;
  int64_t i = 0;
  result_type operator()() { return term(i++); }
};
template <class Term>
double continued_fraction(Term term) {
  Fraction<Term> terms{term};
  return boost::math::tools::continued_fraction_b(terms, std::numeric_limits<double>::epsilon());
}

/// log Q(a, x), the upper regularised incomplete gamma function.
double log_gamma_upper(double a, double x) {
  if (x <= 0) return 0;
  if (x == kInfinity) return -kInfinity;
  if (const long double q = boost::math::gamma_q<long double>(a, x, kQuiet); q > kLeast) return double(std::log(q));
  const double f =
      continued_fraction([&](int64_t i) { return std::pair(-double(i) * (double(i) - a), x + 2 * double(i) + 1 - a); });
  return a * std::log(x) - x - log_gamma(a) - std::log(f);
}

/// The second and fourth k-statistics (unbiased cumulants; Fisher 1930). k4 needs n >= 4.
std::pair<double, double> k_statistics(std::span<const double> v) {
  const double n = double(v.size()), mean = std::accumulate(v.begin(), v.end(), 0.0) / n;
  double s2 = 0, s4 = 0;
  for (const double x : v) {
    const double d = (x - mean) * (x - mean);
    s2 += d;
    s4 += d * d;
  }
  const double k2 = s2 / (n - 1);
  const double k4 = n < 4 ? 0 : ((n * (n + 1) * s4) / (n - 1) - 3 * s2 * s2) / ((n - 2) * (n - 3));
  return {k2, k4};
}

/// How many of all pairings have each sum of products: f[set][sum] = ways to give the first |set| places the elements of `set`.
/// Both sides are whole numbers.
std::vector<double> count_pairings(const std::vector<int>& x, const std::vector<int>& y) {
  const size_t n = x.size();
  int most = 0;
  std::vector<int> xs = x, ys = y;
  std::sort(xs.begin(), xs.end());
  std::sort(ys.begin(), ys.end());
  for (size_t i = 0; i < n; ++i) most += xs[i] * ys[i];
  std::vector<std::vector<double>> ways(size_t{1} << n);
  ways[0].assign(size_t(most) + 1, 0.0);
  ways[0][0] = 1;
  for (size_t set = 0; set + 1 < ways.size(); ++set) {
    const size_t place = size_t(std::popcount(set));
    const std::vector<double> here = std::move(ways[set]);
    ways[set] = {};
    for (size_t j = 0; j < n; ++j) {
      if (set >> j & 1) continue;
      std::vector<double>& next = ways[set | size_t{1} << j];
      if (next.empty()) next.assign(size_t(most) + 1, 0.0);
      const size_t shift = size_t(x[place] * y[j]);
      for (size_t s = 0; s + shift <= size_t(most); ++s) next[s + shift] += here[s];
    }
  }
  return std::move(ways.back());
}

bool are_whole(std::span<const double> ranks) {
  return std::all_of(ranks.begin(), ranks.end(), [](double r) { return r == std::floor(r); });
}

/// Mid-ranks as whole numbers: doubled, where some are halves.
std::vector<int> whole(std::span<const double> ranks) {
  const double scale = are_whole(ranks) ? 1 : 2;
  std::vector<int> out;
  for (const double r : ranks) out.push_back(int(std::lround(scale * r)));
  return out;
}

/// log P(sum of products >= that of these ranks) over all pairings.
double log_counted_tail(std::span<const double> x, std::span<const double> y) {
  const std::vector<int> wx = whole(x), wy = whole(y);
  int64_t observed = 0;
  for (size_t i = 0; i < wx.size(); ++i) observed += int64_t{wx[i]} * wy[i];
  // Without ties the counts depend on n alone; tests over many experts use them again.
  const auto no_ties = [](std::vector<int> ranks) {
    std::sort(ranks.begin(), ranks.end());
    for (size_t i = 0; i < ranks.size(); ++i)
      if (ranks[i] != int(i) + 1) return false;
    return true;
  };
  thread_local std::array<std::vector<double>, kCountedPairs + 1> known;
  std::vector<double> own;
  const bool common = no_ties(wx) && no_ties(wy);
  std::vector<double>& ways = common ? known[wx.size()] : own;
  if (ways.empty()) ways = count_pairings(wx, wy);
  return std::log(std::accumulate(ways.begin() + observed, ways.end(), 0.0) / std::accumulate(ways.begin(), ways.end(), 0.0));
}

/// Tail of the symmetric Pearson curve of these moments: type II (a beta on an interval) for light tails, type VII (Student's t)
/// for heavy ones. `value` is the correlation less half the step to the next possible one.
double log_pearson_tail(double value, const PermutationMoments& m) {
  if (value < 0) return log_complement(log_pearson_tail(-value, m));
  const double z = value / std::sqrt(m.variance);
  if (std::abs(m.excess_kurtosis) < 1e-9) return log_normal_sf(z);
  if (m.excess_kurtosis > 0) {
    const double df = 4 + 6 / m.excess_kurtosis;
    return log_student_t_sf(z * std::sqrt(df / (df - 2)), df);
  }
  const double a = (-6 / m.excess_kurtosis - 3) / 2;
  if (a <= 0) return log_normal_sf(z);  // no curve is that flat; only a few values lead here, and they are counted instead
  const double x = z / std::sqrt(2 * a + 1);
  if (x >= 1) return -kInfinity;
  return log_beta_regularised(a, 0.5, (1 - x) * (1 + x), x * x) - kLogTwo;
}

}  // namespace

double log_beta_regularised(double a, double b, double x, double y) {
  OVERPROOF_CHECK(a > 0 && b > 0);
  if (x <= 0) return -kInfinity;
  if (y <= 0) return 0;
  // Of x and y the smaller is exact: the other is known only as 1 less it.
  const long double p =
      x < 0.5 ? boost::math::ibeta<long double>(a, b, x, kQuiet) : boost::math::ibetac<long double>(b, a, y, kQuiet);
  if (p > kLeast) return double(std::log(p));
  // Abramowitz and Stegun 26.5.8.
  const double f = continued_fraction([&](int64_t i) -> std::pair<double, double> {
    const double m = double(i / 2);
    if (i == 0) return {1.0, 1.0};
    if (i % 2 == 0) return {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0};
    return {-(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0};
  });
  const double log_x = x < 0.5 ? std::log(x) : std::log1p(-y), log_y = y < 0.5 ? std::log(y) : std::log1p(-x);
  return a * log_x + b * log_y - (log_gamma(a) + log_gamma(b) - log_gamma(a + b)) - std::log(a) - std::log(f);
}

double log_normal_sf(double z) {
  if (z < 0) return log_complement(log_normal_sf(-z));
  return log_gamma_upper(0.5, z * z / 2) - kLogTwo;
}

double log_student_t_sf(double t, double df) {
  OVERPROOF_CHECK(df > 0);
  if (t < 0) return log_complement(log_student_t_sf(-t, df));
  const double square = t * t;
  return log_beta_regularised(df / 2, 0.5, df / (df + square), square / (df + square)) - kLogTwo;
}

double log_chi_squared_sf(double x, double df) {
  OVERPROOF_CHECK(df > 0);
  return log_gamma_upper(df / 2, x / 2);
}

double log_binomial_at_least(int64_t k, int64_t n, double p) {
  if (k <= 0) return 0;
  if (k > n) return -kInfinity;
  return log_beta_regularised(double(k), double(n - k + 1), p, 1 - p);
}

double fisher_combined(std::span<const double> log_p) {
  if (log_p.empty()) return 0;
  double sum = 0;
  for (const double l : log_p) sum += l;
  if (sum == -kInfinity) return -kInfinity;
  return log_chi_squared_sf(-2 * sum, 2 * double(log_p.size()));
}

std::vector<double> holm_adjusted(std::span<const double> log_p) {
  std::vector<size_t> order(log_p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return log_p[a] != log_p[b] ? log_p[a] < log_p[b] : a < b; });
  std::vector<double> adjusted(log_p.size());
  double most = -kInfinity;
  for (size_t i = 0; i < order.size(); ++i) {
    most = std::max(most, std::min(0.0, log_p[order[i]] + std::log(double(order.size() - i))));
    adjusted[order[i]] = most;
  }
  return adjusted;
}

std::vector<double> mid_ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = (double(begin + 1) + double(end)) / 2;
    begin = end;
  }
  return ranks;
}

double correlation(std::span<const double> x, std::span<const double> y) {
  OVERPROOF_CHECK(x.size() == y.size() && !x.empty());
  const double n = double(x.size());
  const double mx = std::accumulate(x.begin(), x.end(), 0.0) / n, my = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

std::vector<double> residuals(std::span<const double> y, const std::vector<std::vector<double>>& covariates) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const auto take_off = [&](std::vector<double>& from, const std::vector<double>& unit) {
    const double share = dot(from, unit);
    for (size_t i = 0; i < from.size(); ++i) from[i] -= share * unit[i];
  };
  std::vector<std::vector<double>> basis;
  const auto add = [&](std::vector<double> column) {
    OVERPROOF_CHECK(column.size() == y.size());
    const double before = std::sqrt(dot(column, column));
    for (int twice = 0; twice < 2; ++twice)  // Gram-Schmidt loses orthogonality in one pass, not in two
      for (const auto& unit : basis) take_off(column, unit);
    const double norm = std::sqrt(dot(column, column));
    if (!(norm > 1e-9 * before)) return;
    for (double& x : column) x /= norm;
    basis.push_back(std::move(column));
  };
  add(std::vector<double>(y.size(), 1.0));
  for (const auto& column : covariates) add(column);
  std::vector<double> rest(y.begin(), y.end());
  for (const auto& unit : basis) take_off(rest, unit);
  return rest;
}

PermutationMoments permutation_moments(std::span<const double> x, std::span<const double> y) {
  OVERPROOF_CHECK(x.size() == y.size() && x.size() >= 4);
  const double n = double(x.size());
  const auto [x2, x4] = k_statistics(x);
  const auto [y2, y4] = k_statistics(y);
  PermutationMoments m;
  m.variance = 1 / (n - 1);
  if (x2 <= 0 || y2 <= 0) return m;
  const double fourth =
      3 / (n * n - 1) + (n - 2) * (n - 3) / (n * (n + 1) * (n - 1) * (n - 1) * (n - 1)) * (x4 / (x2 * x2)) * (y4 / (y2 * y2));
  m.excess_kurtosis = fourth * (n - 1) * (n - 1) - 3;
  return m;
}

double log_rank_curve(std::span<const double> rx, std::span<const double> ry, double rho) {
  // The sum of products moves in steps of 1 (of 1/4 at the least where there are ties).
  const auto spread = [](std::span<const double> r) {
    const double mean = std::accumulate(r.begin(), r.end(), 0.0) / double(r.size());
    return std::accumulate(r.begin(), r.end(), 0.0, [&](double sum, double v) { return sum + (v - mean) * (v - mean); });
  };
  const double squares = spread(rx) * spread(ry);
  const double half_step = squares > 0 ? (are_whole(rx) && are_whole(ry) ? 0.5 : 0.125) / std::sqrt(squares) : 0;
  return log_pearson_tail(rho - half_step, permutation_moments(rx, ry));
}

RankTest rank_test(std::span<const double> x, std::span<const double> y) {
  OVERPROOF_CHECK(x.size() == y.size());
  RankTest test;
  if (x.size() < 3) return test;
  const std::vector<double> rx = mid_ranks(x), ry = mid_ranks(y);
  test.rho = correlation(rx, ry);
  test.exact = x.size() <= kCountedPairs;
  if (test.exact) test.log_p = log_counted_tail(rx, ry);
  else test.log_p = std::max(log_rank_curve(rx, ry, test.rho), -log_gamma(double(x.size()) + 1));
  return test;
}

int64_t pairings_at_least(std::span<const double> x, std::span<const double> y, int64_t draws, uint64_t seed) {
  OVERPROOF_CHECK(x.size() == y.size() && !x.empty());
  // Whole numbers, so that equal sums compare equal.
  const std::vector<int> rx = whole(mid_ranks(x)), ry = whole(mid_ranks(y));
  const auto product = [&](const std::vector<int>& order) {
    int64_t sum = 0;
    for (size_t i = 0; i < rx.size(); ++i) sum += int64_t{rx[i]} * order[i];
    return sum;
  };
  const int64_t observed = product(ry);
  constexpr int64_t kGrain = 256;
  std::vector<int64_t> counts(size_t((draws + kGrain - 1) / kGrain), 0);
  parallel_for(draws, kGrain, [&](int64_t begin, int64_t end) {
    throw_if_interrupted();
    Rng rng(seed, "statistics/pairings", uint64_t(begin / kGrain));
    std::vector<int> order = ry;
    for (int64_t d = begin; d < end; ++d) {
      for (uint32_t i = uint32_t(order.size()); i > 1; --i) {  // Fisher and Yates, with Lemire's bounded draw (2019)
        uint64_t wide = uint64_t(rng.next_u32()) * i;
        while (uint32_t(wide) < (0u - i) % i) wide = uint64_t(rng.next_u32()) * i;
        std::swap(order[i - 1], order[size_t(wide >> 32)]);
      }
      counts[size_t(begin / kGrain)] += product(order) >= observed;
    }
  });
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

UniformityTest uniformity_test(std::vector<double> values) {
  UniformityTest test;
  if (values.empty()) return test;
  std::sort(values.begin(), values.end());
  const double n = double(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    test.distance = std::max({test.distance, double(i + 1) / n - values[i], values[i] - double(i) / n});
  const double t = test.distance * (std::sqrt(n) + 0.12 + 0.11 / std::sqrt(n));
  double p = 0;
  for (int k = 1; k <= 100; ++k) p += (k % 2 ? 2 : -2) * std::exp(-2.0 * k * k * t * t);
  test.p = t < 0.2 ? 1 : std::clamp(p, 0.0, 1.0);
  return test;
}

}  // namespace overproof
