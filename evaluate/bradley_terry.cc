#include "evaluate/bradley_terry.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/rng.h"

namespace overproof {
namespace {

constexpr int kMostSteps = 200;
constexpr double kPriorTie = 0.5;  // battles

/// A square matrix by rows.
struct Square {
  explicit Square(size_t n_) : n(n_), values(n_ * n_) {}
  double& at(size_t i, size_t j) { return values[i * n + j]; }
  double at(size_t i, size_t j) const { return values[i * n + j]; }
  size_t n;
  std::vector<double> values;
};

/// wins[i][j]: of i over j, a tie half a win of each; `times[p]`: how often prompt p counts.
Square wins_of(const std::vector<Battle>& battles, size_t models, const std::vector<double>& times) {
  Square wins(models);
  for (const Battle& battle : battles) {
    OVERPROOF_CHECK(battle.a != battle.b && battle.a >= 0 && battle.b >= 0 && size_t(std::max(battle.a, battle.b)) < models);
    const double weight = times.empty() ? 1 : times[size_t(battle.prompt)];
    wins.at(size_t(battle.a), size_t(battle.b)) += weight * battle.score;
    wins.at(size_t(battle.b), size_t(battle.a)) += weight * (1 - battle.score);
  }
  return wins;
}

/// Whether all models are reached from the first one; backwards: whether it is reached from all.
bool reaches_all(const Square& wins, bool backwards) {
  std::vector<size_t> open = {0};
  std::vector<bool> seen(wins.n);
  seen[0] = true;
  while (!open.empty()) {
    const size_t i = open.back();
    open.pop_back();
    for (size_t j = 0; j < wins.n; ++j)
      if (!seen[j] && (backwards ? wins.at(j, i) : wins.at(i, j)) > 0) seen[j] = true, open.push_back(j);
  }
  return std::ranges::all_of(seen, [](bool b) { return b; });
}

double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

double log_likelihood(const Square& wins, const std::vector<double>& strengths) {
  double sum = 0;
  for (size_t i = 0; i < wins.n; ++i)
    for (size_t j = 0; j < wins.n; ++j)
      if (wins.at(i, j) > 0) sum += wins.at(i, j) * log_sigmoid(strengths[i] - strengths[j]);
  return sum;
}

/// Solves m x = y for a symmetric, positive definite m, by Cholesky.
std::vector<double> solved(Square m, std::vector<double> y) {
  const size_t n = m.n;
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k) m.at(j, j) -= m.at(j, k) * m.at(j, k);
    m.at(j, j) = std::sqrt(m.at(j, j));
    for (size_t i = j + 1; i < n; ++i) {
      for (size_t k = 0; k < j; ++k) m.at(i, j) -= m.at(i, k) * m.at(j, k);
      m.at(i, j) /= m.at(j, j);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) y[i] -= m.at(i, k) * y[k];
    y[i] /= m.at(i, i);
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) y[i] -= m.at(k, i) * y[k];
    y[i] /= m.at(i, i);
  }
  return y;
}

Ratings ratings_of(Square wins) {
  const size_t n = wins.n;
  Ratings result;
  result.with_prior = !reaches_all(wins, false) || !reaches_all(wins, true);
  if (result.with_prior) {
    Square more = wins;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j)
        if (wins.at(i, j) + wins.at(j, i) > 0) more.at(i, j) += kPriorTie / 2;
    wins = std::move(more);
    OVERPROOF_CHECK(reaches_all(wins, false));
  }
  std::vector<double> strengths(n);
  double value = log_likelihood(wins, strengths), battles = 0;
  for (const double w : wins.values) battles += w;
  for (int step = 0; step < kMostSteps; ++step) {
    std::vector<double> gradient(n);
    Square curvature(n);  // of minus the likelihood; strengths are free up to a constant, which the last term fixes
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) {
        curvature.at(i, j) += battles / double(n);
        if (i == j) continue;
        const double p = 1 / (1 + std::exp(strengths[j] - strengths[i])), met = wins.at(i, j) + wins.at(j, i);
        gradient[i] += wins.at(i, j) - met * p;
        curvature.at(i, i) += met * p * (1 - p);
        curvature.at(i, j) -= met * p * (1 - p);
      }
    const std::vector<double> change = solved(curvature, gradient);
    double most = 0, length = 1;
    for (const double c : change) most = std::max(most, std::abs(c));
    if (most < 1e-12) break;
    std::vector<double> next(n);
    for (;; length /= 2) {
      for (size_t i = 0; i < n; ++i) next[i] = strengths[i] + length * change[i];
      const double there = log_likelihood(wins, next);
      if (there >= value || length < 1e-9) {
        value = there;
        break;
      }
    }
    strengths = next;
    if (length < 1e-9) break;  // no better: rounding
  }
  double mean = 0;
  for (const double s : strengths) mean += s / double(n);
  for (const double s : strengths) result.values.push_back(kRatingMean + (s - mean) * kRatingScale / std::log(10.0));
  return result;
}

/// numpy's default: between the two nearest ranks.
double percentile_between(std::vector<double>& values, double share) {
  std::ranges::sort(values);
  const double place = share * double(values.size() - 1);
  const auto below = size_t(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - double(below)) * (values[above] - values[below]);
}

}  // namespace

Ratings bradley_terry(const std::vector<Battle>& battles, int64_t models) { return ratings_of(wins_of(battles, size_t(models), {})); }

RatingIntervals rating_intervals(const std::vector<Battle>& battles, int64_t models, int64_t prompts, int64_t draws, int64_t seed) {
  RatingIntervals result;
  std::vector<std::vector<double>> all(static_cast<size_t>(models));
  // Every pair is a part of each sample: the prior is on the pairs that met, which a sample without a verdict on a pair would lose.
  for (int64_t draw = 0; draw < draws; ++draw) {
    throw_if_interrupted();
    Rng rng(uint64_t(seed), "evaluate/arena", uint64_t(draw));
    std::vector<double> times(static_cast<size_t>(prompts));
    for (int64_t i = 0; i < prompts; ++i) times[size_t(rng.below(uint64_t(prompts)))] += 1;
    Square wins = wins_of(battles, size_t(models), times);
    for (const Battle& battle : battles)  // met, but not in this sample: as good as a tie
      if (wins.at(size_t(battle.a), size_t(battle.b)) + wins.at(size_t(battle.b), size_t(battle.a)) == 0)
        wins.at(size_t(battle.a), size_t(battle.b)) = wins.at(size_t(battle.b), size_t(battle.a)) = kPriorTie / 2;
    const Ratings ratings = ratings_of(std::move(wins));
    result.draws_with_prior += ratings.with_prior;
    for (size_t m = 0; m < all.size(); ++m) all[m].push_back(ratings.values[m]);
  }
  for (std::vector<double>& values : all) {
    result.low.push_back(percentile_between(values, 0.025));
    result.high.push_back(percentile_between(values, 0.975));
  }
  return result;
}

}  // namespace overproof
