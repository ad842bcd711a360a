#include "quantize/calibration/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"

namespace overproof {

Calibration::Calibration(const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
                         const ActivationStatistics& statistics, std::function<bool(const std::string&)> is_quantized)
    : options_(options), scheme_(scheme), statistics_(statistics), is_quantized_(std::move(is_quantized)) {
  if (options_.gptq && !scheme.int8_layout())
    throw UsageError(fmt::format("gptq needs an int8 scheme (int8, int8-g128, w8a8 or w8a8-static); scheme '{}' has other codes",
                                 scheme.name()));
  for (const auto& [weight, group] : statistics.groups()) {
    const TensorInfo* info = model.tensors->find(weight);
    if (!info || info->shape.size() != 2 || info->shape[1] != statistics.columns(group))
      throw MismatchError(fmt::format("{}: records {} input channels of '{}', and the model has no such weight",
                                      statistics.path().string(), statistics.columns(group), weight));
    if (options_.gptq && !statistics.has_hessian(group))
      throw MismatchError(
          fmt::format("{}: gptq needs Hessians, which were not recorded; run `overproof activations` with --hessians",
                      statistics.path().string()));
  }
  if (options_.smooth) find_scaling(model);
}

void Calibration::multiply(const std::string& name, std::shared_ptr<const std::vector<float>> TensorScaling::*side,
                           std::vector<float> factors) {
  auto& target = scaling_[name].*side;
  OVERPROOF_CHECK(!target);  // the rows of a tensor belong to one site at most, and so do its columns
  target = std::make_shared<const std::vector<float>>(std::move(factors));
}

void Calibration::find_scaling(const Checkpoint& model) {
  const std::optional<ActivationRounding> activations = scheme_.input_rounding();
  if (!activations)
    throw UsageError(fmt::format("smooth needs a scheme that rounds activations; scheme '{}' does not", scheme_.name()));
  const SmoothOptions search{options_.strength, options_.min_tokens, *activations, scheme_.weight_group()};
  const std::vector<SmoothSite> sites = smooth_sites(*model.config, *model.tensors, is_quantized_);
  Progress progress("smooth", int64_t(sites.size()), "sites");
  for (const SmoothSite& site : sites) {
    throw_if_interrupted();
    const SmoothResult found = smooth(site, *model.tensors, statistics_, search);
    progress.update(++sites_, site.consumers.front());
    if (found.factors.empty()) continue;
    ++smoothed_sites_;
    strengths_ += found.strength;
    errors_ += std::log(std::max(found.error, 1e-9));
    std::vector<float> inverse(found.factors);
    for (float& s : inverse) s = 1.0f / s;  // exact: powers of two
    for (const std::string& name : site.producers) multiply(name, &TensorScaling::rows, inverse);
    std::vector<float> columns(found.factors);
    if (!site.channel_of.empty()) {
      columns.clear();
      for (const int32_t channel : site.channel_of) columns.push_back(found.factors[size_t(channel)]);
    }
    for (const auto* list : {&site.consumers, &site.compensated})
      for (const std::string& name : *list) {
        multiply(name, &TensorScaling::columns, columns);
        smoothed_[name] = scaling_[name].columns;
      }
  }
}

const TensorScaling& Calibration::scaling(std::string_view name) const {
  static const TensorScaling none;
  const auto found = scaling_.find(name);
  return found == scaling_.end() ? none : found->second;
}

const std::string* Calibration::usable_group(std::string_view weight) const {
  const std::string* group = statistics_.group_of(weight);
  return group && statistics_.tokens(*group) >= std::max<int64_t>(1, options_.min_tokens) ? group : nullptr;
}

std::shared_ptr<const std::vector<float>> Calibration::smoothing_of(std::string_view weight) const {
  const auto found = smoothed_.find(weight);
  return found == smoothed_.end() ? nullptr : found->second;
}

std::shared_ptr<const LinearStatistics> Calibration::for_weight(std::string_view name) const {
  const std::string* group = usable_group(name);
  if (!group) return nullptr;
  const auto factors = smoothing_of(name);
  auto statistics = std::make_shared<LinearStatistics>(
      statistics_.read(*group, factors ? ActivationStatistics::Parts::samples : ActivationStatistics::Parts::small));
  if (factors) smooth_statistics(*statistics, *factors);
  statistics->samples.clear();
  statistics->samples.shrink_to_fit();
  return statistics;
}

std::shared_ptr<Calibration::Factor> Calibration::factor_of(const std::string& group) const {
  const std::scoped_lock lock(mutex_);
  const auto found = std::ranges::find(factors_, group, [](const auto& f) { return f->group; });
  if (found != factors_.end()) return *found;
  if (factors_.size() == kFactorSlots) factors_.erase(factors_.begin());
  factors_.push_back(std::make_shared<Factor>());
  factors_.back()->group = group;
  return factors_.back();
}

std::unique_ptr<RowQuantizer> Calibration::wrap(const TensorInfo& weight, const Scheme& scheme,
                                                std::unique_ptr<RowQuantizer> inner) const {
  if (!options_.gptq) return inner;
  std::shared_ptr<const HessianFactor> factor;
  if (const std::string* group = usable_group(weight.name); group && scheme.int8_layout()) {
    const auto shared = factor_of(*group);
    std::call_once(shared->once, [&] {
      // All weights of a group are consumers of one site, so they share the smoothing, too.
      LinearStatistics seen = statistics_.read(*group, ActivationStatistics::Parts::hessian);
      if (const auto factors = smoothing_of(weight.name)) smooth_statistics(seen, *factors);
      shared->factor = hessian_factor(seen.hessian, seen.columns, options_.gptq_options);
    });
    factor = shared->factor;
  }
  const std::scoped_lock lock(mutex_);
  if (!factor) {
    data_free_.push_back(weight.name);
    return inner;
  }
  ++by_gptq_;
  return gptq_quantizer(scheme, weight, std::move(inner), std::move(factor));
}

Json Calibration::metrics() const {
  const std::scoped_lock lock(mutex_);
  std::ranges::sort(data_free_);  // threads append in any order
  Json m = Json::object();
  if (options_.smooth) {
    m["smoothed_sites"] = smoothed_sites_;
    m["left_alone"] = sites_ - smoothed_sites_;
    m["mean_strength"] = smoothed_sites_ ? std::round(strengths_ / double(smoothed_sites_) * 1000) / 1000 : 0.0;
  }
  if (options_.gptq) {
    m["gptq"] = by_gptq_;
    m["data_free"] = int64_t(data_free_.size());
    m["data_free_weights"] = data_free_;
  }
  return m;
}

std::vector<std::string> Calibration::summary() const {
  const std::scoped_lock lock(mutex_);
  std::ranges::sort(data_free_);
  std::vector<std::string> lines;
  if (options_.smooth && smoothed_sites_ > 0)
    lines.push_back(fmt::format(
        "smoothed {} of {} sites, mean strength {:.2f}{}", smoothed_sites_, sites_, strengths_ / double(smoothed_sites_),
        options_.strength
            ? ""
            : fmt::format("; output error of these x {:.2f} (geometric mean)", std::exp(errors_ / double(smoothed_sites_)))));
  else if (options_.smooth) lines.push_back(fmt::format("smoothed none of {} sites: it lowers the error of no output", sites_));
  if (options_.gptq) {
    lines.push_back(fmt::format("quantized {} weights with gptq, {} without", by_gptq_, data_free_.size()));
    const auto reason = [&](const std::string& weight) {
      if (!statistics_.group_of(weight)) return "its input was not recorded";
      return usable_group(weight) ? "its scheme has no int8 codes, or its Hessian cannot be inverted"
                                  : "its input saw too few tokens";
    };
    constexpr size_t kNamed = 8;
    for (size_t i = 0; i < std::min(kNamed, data_free_.size()); ++i)
      lines.push_back(fmt::format("  without gptq: {} ({})", data_free_[i], reason(data_free_[i])));
    if (data_free_.size() > kNamed)
      lines.push_back(fmt::format("  and {} more, listed in the statement", data_free_.size() - kNamed));
  }
  return lines;
}

}  // namespace overproof
