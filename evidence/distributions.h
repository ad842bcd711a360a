#pragma once
// Tail probabilities and rank tests for evidence between models. All probabilities are natural logarithms: a p-value may lie far
// below what a double holds. Relative errors of the probabilities are below 1e-9 (tests/golden/statistics).
//
// The incomplete gamma and beta functions are those of Boost.Math in long double: gamma_q (chi-squared, Fisher's method, and the
// normal as Q(1/2, z^2 / 2) / 2), ibeta (Student's t, binomial, the Pearson curve of rank tests), lgamma. Below 1e-4000 the
// logarithm comes from their continued fractions, summed by boost::math::tools::continued_fraction_b.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace overproof {

/// log P(Z > z), standard normal.
double log_normal_sf(double z);
/// log P(T > t), Student with df > 0 degrees of freedom (not necessarily whole).
double log_student_t_sf(double t, double df);
/// log P(X > x), chi-squared with df > 0 degrees of freedom.
double log_chi_squared_sf(double x, double df);
/// log P(X >= k), X ~ Binomial(n, p): exact. 0 for k <= 0, -inf for k > n.
double log_binomial_at_least(int64_t k, int64_t n, double p);
/// log of the regularised incomplete beta function I_x(a, b); y = 1 - x is given too, because one of them may be tiny.
double log_beta_regularised(double a, double b, double x, double y);

/// Fisher's method: log p of the combined test, from the logs of independent p-values. 0 when there are none. Valid also for
/// discrete p-values, which make it conservative.
double fisher_combined(std::span<const double> log_p);

/// Holm's step-down adjustment (Holm 1979), logs in and out, capped at 0, in the order given.
std::vector<double> holm_adjusted(std::span<const double> log_p);

/// Ranks from 1; equals share their mean rank.
std::vector<double> mid_ranks(std::span<const double> values);

/// Pearson's correlation; 0 when either side is constant.
double correlation(std::span<const double> x, std::span<const double> y);

/// Moments of the correlation over all n! pairings of x with y, for the tail of its distribution.
struct PermutationMoments {
  double variance = 0;         ///< 1 / (n - 1) for any x and y
  double excess_kurtosis = 0;  ///< from the k-statistics of x and y (Pitman 1937)
};
/// n >= 4. The third moment is 0 when either side is symmetric, as ranks without ties are.
PermutationMoments permutation_moments(std::span<const double> x, std::span<const double> y);

/// y minus its least-squares fit by the covariates and a constant. Columns that depend linearly on earlier ones are skipped.
std::vector<double> residuals(std::span<const double> y, const std::vector<std::vector<double>>& covariates);

struct RankTest {
  double rho = 0;      ///< Spearman's
  double log_p = 0;    ///< P(rho of a random pairing >= rho)
  bool exact = false;  ///< all pairings were counted
};

/// One-sided test for a positive rank correlation; its null hypothesis is that every pairing of x with y is equally likely, and
/// nothing more. Up to 12 pairs, all pairings are counted (with ties, too). Beyond, the tail of the Pearson curve that has the
/// exact second and fourth moments of the permutation distribution, with a correction for its steps, never below 1 / n!. Against
/// full counts at n = 12 it is within 3 % where p > 5e-3, within 20 % where p > 1e-3, and too large below; it is never too small
/// by more than 3 % (tests/evidence/distributions_test.cc); what the curve leaves out is of the order of n rho^6, so the range grows with
/// n. Fewer than 3 pairs: p = 1.
RankTest rank_test(std::span<const double> x, std::span<const double> y);

/// That curve alone, for any n >= 4: log P(rho >= `rho`) for these mid-ranks.
double log_rank_curve(std::span<const double> x_ranks, std::span<const double> y_ranks, double rho);

/// How many of `draws` random pairings have a rank correlation of at least that of x with y. (1 + count) / (1 + draws) is an
/// exact p-value (Phipson and Smyth 2010) of at least 1 / (1 + draws). Draws are keyed by (seed, number), so the result is the same
/// for any number of threads.
int64_t pairings_at_least(std::span<const double> x, std::span<const double> y, int64_t draws, uint64_t seed);

/// Kolmogorov-Smirnov test that values in [0, 1] are uniform: the distance, and the asymptotic p with Stephens' correction.
struct UniformityTest {
  double distance = 0, p = 1;
};
UniformityTest uniformity_test(std::vector<double> values);

}  // namespace overproof
