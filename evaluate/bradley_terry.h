#pragma once
// Ratings of models from battles between pairs of them, as Chatbot Arena computes them (Chiang et al. 2024): the maximum-likelihood estimate of the model of
// Bradley and Terry (1952), on Elo's scale, with bootstrap intervals.

#include <cstdint>
#include <vector>

namespace overproof {

struct Battle {
  int32_t a = 0, b = 0;  ///< numbers of two different models
  double score = 0;      ///< 1: a won; 0: b won; 0.5: a tie
  int64_t prompt = 0;    ///< number of the prompt
};

inline constexpr double kRatingScale = 400, kRatingMean = 1000;

struct Ratings {
  std::vector<double> values;  ///< of each model; their mean is kRatingMean
  bool with_prior = false;
};
/// The ratings r that maximise the sum over battles of score x log p(r_a - r_b) + (1 - score) x log p(r_b - r_a), p(d) = 1 / (1 + 10^(-d / kRatingScale)): a tie
/// is half a win and half a loss. The maximum is finite only where each model can be reached from each other one by wins (Ford 1957). Elsewhere half a tie
/// is added to each pair that met, and `with_prior` is set. Every model needs a battle, and no two groups may have never met. Newton's method.
Ratings bradley_terry(const std::vector<Battle>& battles, int64_t models);

struct RatingIntervals {
  std::vector<double> low, high;  ///< of each model
  int64_t draws_with_prior = 0;
};
/// 95 % intervals: the 2.5th and 97.5th percentile, interpolated linearly, of the ratings of `draws` samples. A sample is as many prompts as there are, drawn
/// with replacement, with all battles of each: battles of one prompt are not independent.
RatingIntervals rating_intervals(const std::vector<Battle>& battles, int64_t models, int64_t prompts, int64_t draws, int64_t seed);

}  // namespace overproof
