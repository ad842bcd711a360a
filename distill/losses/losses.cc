#include "distill/losses/losses.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "core/error.h"
#include "distill/losses/divergence.h"
#include "records/step_records.h"

namespace overproof {

const std::vector<const Loss*>& all_losses() {
  static const std::vector<const Loss*> list = {&kForwardKl, &kCrossEntropy, &kReverseKl,    &kJensenShannon, &kTotalVariation,   &kSkewedKl,
                                                &kSkewedReverseKl, &kEntropyGated, &kTopKKl, &kMergedKl,      &kUniversal,        &kRouterZ,
                                                &kBalance,   &kHiddenMse,    &kHiddenCosine, &kFfnMse,        &kSampledReverseKl, &kReward,
                                                &kUnlikelihood};
  return list;
}

namespace {

const Loss& find_loss(std::string_view name) {
  StringList names;
  for (const Loss* loss : all_losses()) {
    if (loss->name == name) return *loss;
    names.emplace_back(loss->name);
  }
  const std::string near = nearest(name, names);
  throw UsageError(fmt::format(
      "option 'loss': unknown loss '{}'; {}", name,
      near.empty() ? fmt::format("losses are {}", fmt::join(names, ", ")) : fmt::format("did you mean '{}'?", near)));
}

}  // namespace

LossTerms parse_losses(const StringMap& weights) {
  std::map<const Loss*, LossTerm> given;
  double sum = 0;
  for (const auto& [key, text] : weights) {
    const size_t colon = key.find(':');
    const Loss& loss = find_loss(std::string_view(key).substr(0, colon));
    LossTerm term{&loss, 0};
    if (colon != std::string::npos) {
      const auto parameter = number_in(std::string_view(key).substr(colon + 1), loss.least, loss.most);
      if (loss.least == loss.most)
        throw UsageError(fmt::format("option 'loss': '{}' has no parameter; leave out what follows the colon in '{}'", loss.name, key));
      if (!parameter)
        throw UsageError(fmt::format("option 'loss': '{}': the parameter is not a number from {} to {}", key, loss.least, loss.most));
      if (loss.integer && *parameter != std::floor(*parameter))
        throw UsageError(fmt::format("option 'loss': '{}': the parameter is not a whole number", key));
      term.parameter = *parameter;
    }
    const auto weight = number_in(text, 0, 1e6);
    if (!weight)
      throw UsageError(
          fmt::format("option 'loss': the weight of '{}' is '{}', not a number from 0 to 1000000", loss.name, text));
    sum += term.weight = *weight;
    if (!given.emplace(&loss, term).second)
      throw UsageError(fmt::format("option 'loss': '{}' is given twice; a training has each loss once", loss.name));
  }
  if (!(sum > 0)) throw UsageError("option 'loss': at least one loss needs a weight above 0");
  if (given.size() > kMostLossTerms)
    throw UsageError(fmt::format("option 'loss': {} losses are given; step records hold {}", given.size(), kMostLossTerms));
  LossTerms terms;
  for (const Loss* loss : all_losses())
    if (const auto found = given.find(loss); found != given.end()) terms.push_back(found->second);
  return terms;
}

void require_targets(const LossTerms& terms, TargetKind kind) {
  for (const LossTerm& term : terms) {
    const Loss& loss = *term.loss;
    if ((!loss.of_targets() && !loss.drawn) || std::ranges::find(loss.takes, kind) != loss.takes.end()) continue;
    std::vector<std::string_view> takes;
    for (const TargetKind one : loss.takes) takes.push_back(target_kind_text(one));
    throw UsageError(fmt::format("option 'loss': '{}' cannot use these targets, which are {}; it needs {}", loss.name,
                                 kind == TargetKind::sampled ? "sampled, an estimate that is right only on average"
                                                             : target_kind_text(kind),
                                 fmt::join(takes, " or ")));
  }
}

double DenseRows::total(const at::Tensor& values) const {
  return (weight.defined() ? values.dot(weight) : values.sum()).item<double>();
}

void DenseGradient::add(at::Tensor rows, double weight) {
  if (other.defined()) other.add_(rows, weight);
  else other = rows.mul_(weight);
}

double dense_divergence(const DenseRows& rows, const at::Tensor& q, const at::Tensor& terms, at::Tensor slope, double weight,
                        DenseGradient* gradient) {
  if (gradient) {
    const at::Tensor mean_slope = at::mul(q, slope).sum(1, true);
    gradient->add(slope.sub_(mean_slope).mul_(q), weight);
  }
  return rows.total(terms.sum(1, false, at::kDouble).clamp_min_(0));  // below zero by rounding only
}

double LossSums::total(const LossTerms& terms) const {
  double sum = 0;
  for (size_t i = 0; i < terms.size(); ++i) sum += terms[i].weight * values[i];
  return sum;
}

LossSums& LossSums::operator+=(const LossSums& other) {
  values.resize(std::max(values.size(), other.values.size()));
  for (size_t i = 0; i < other.values.size(); ++i) values[i] += other.values[i];
  weight += other.weight;
  return *this;
}

}  // namespace overproof
