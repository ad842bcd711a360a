#include "distill/losses/losses.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace overproof {

const std::vector<const Loss*>& all_losses() {
  static const std::vector<const Loss*> list = {&kForwardKl, &kCrossEntropy};
  return list;
}

LossTerms parse_losses(const StringMap& weights) {
  LossTerms terms;
  StringList names;
  double sum = 0;
  for (const Loss* loss : all_losses()) {
    names.emplace_back(loss->name);
    const auto given = weights.find(names.back());
    if (given == weights.end()) continue;
    const std::string& text = given->second;
    double weight = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
    if (error != std::errc() || end != text.data() + text.size() || !(weight >= 0 && weight <= 1e6))
      throw UsageError(
          fmt::format("option 'loss': the weight of '{}' is '{}', not a number from 0 to 1000000", loss->name, text));
    terms.push_back({loss, weight});
    sum += weight;
  }
  for (const auto& [name, weight] : weights)
    if (std::ranges::find(names, name) == names.end()) {
      const std::string near = nearest(name, names);
      throw UsageError(fmt::format(
          "option 'loss': unknown loss '{}'; {}", name,
          near.empty() ? fmt::format("losses are {}", fmt::join(names, ", ")) : fmt::format("did you mean '{}'?", near)));
    }
  if (!(sum > 0)) throw UsageError("option 'loss': at least one loss needs a weight above 0");
  return terms;
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
