// Which experts a router chooses and with which weights, against the definitions spelled out in loops.

#include <ATen/ATen.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "model/ops/expert_mixture.h"
#include "tests/model/random_model.h"

namespace overproof {
namespace {

struct Chosen {
  std::vector<int32_t> ids;  // ascending
  std::vector<double> weights;
};

Chosen choose(const std::vector<double>& z, const std::vector<double>& bias, const ModelConfig& c) {
  const size_t experts = z.size(), groups = size_t(c.expert_groups), in_group = experts / groups;
  std::vector<double> score(experts), worth(groups);
  double sum = 0;
  for (const double x : z) sum += std::exp(x);
  for (size_t e = 0; e < experts; ++e)
    score[e] = c.expert_scores == ExpertScores::softmax ? std::exp(z[e]) / sum : 1 / (1 + std::exp(-z[e]));
  for (size_t g = 0; g < groups; ++g) {
    std::vector<double> own;
    for (size_t i = 0; i < in_group; ++i) own.push_back(score[g * in_group + i] + bias[g * in_group + i]);
    std::ranges::sort(own, std::greater<>());
    worth[g] = own[0] + (c.group_score == GroupScore::best_two ? own[1] : 0.0);
  }
  std::vector<size_t> best(groups), order;
  std::iota(best.begin(), best.end(), size_t{0});
  std::ranges::sort(best, [&](size_t a, size_t b) { return worth[a] > worth[b]; });
  for (int64_t g = 0; g < c.used_groups; ++g)
    for (size_t i = 0; i < in_group; ++i) order.push_back(best[size_t(g)] * in_group + i);
  std::ranges::sort(order, [&](size_t a, size_t b) { return score[a] + bias[a] > score[b] + bias[b]; });
  order.resize(size_t(c.top_k));
  std::ranges::sort(order);
  Chosen chosen;
  double all = 0;
  for (const size_t e : order) all += score[e];
  for (const size_t e : order) {
    chosen.ids.push_back(int32_t(e));
    chosen.weights.push_back(score[e] / (c.norm_topk_prob ? all : 1.0) * c.routed_scaling_factor);
  }
  return chosen;
}

}  // namespace

TEST_CASE("experts are chosen by the definitions of their routers") {
  ModelConfig c = random_moe_config();
  c.n_routed_experts = 12;
  c.top_k = 3;
  c.expert_scores = GENERATE(ExpertScores::sigmoid, ExpertScores::softmax);
  c.norm_topk_prob = GENERATE(false, true);
  c.expert_groups = GENERATE(1, 4);
  c.used_groups = c.expert_groups == 1 ? 1 : 2;
  c.group_score = c.expert_scores == ExpertScores::softmax ? GroupScore::best : GroupScore::best_two;
  c.routed_scaling_factor = 1.7;
  const bool has_bias = c.expert_scores == ExpertScores::sigmoid;
  const at::Tensor z = random_tensor({50, 12}, "scores"), bias = has_bias ? 0.3 * random_tensor({12}, "bias") : at::Tensor();
  const ops::Routing routing = ops::route_scores(z, bias, c.top_k, c);
  for (int64_t row = 0; row < z.size(0); ++row) {
    std::vector<double> scores, shift;
    for (int64_t e = 0; e < 12; ++e) {
      scores.push_back(z[row][e].item<double>());
      shift.push_back(has_bias ? bias[e].item<double>() : 0.0);
    }
    const Chosen expected = choose(scores, shift, c);
    for (size_t i = 0; i < expected.ids.size(); ++i) {
      CHECK(routing.selected[row][int64_t(i)].item<int32_t>() == expected.ids[i]);
      CHECK(routing.weights[row][int64_t(i)].item<double>() == Approx(expected.weights[i]).epsilon(1e-5));
    }
  }
}

}  // namespace overproof
