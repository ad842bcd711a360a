#include "model/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace overproof {
namespace {

using at::Tensor;

Tensor llama3(const RopeShape& s, const Tensor& f) {
  const double long_wave = double(s.original_max_position) / s.low_freq_factor;
  const double short_wave = double(s.original_max_position) / s.high_freq_factor;
  const Tensor wavelength = 2.0 * std::numbers::pi / f;
  const Tensor blend =
      (double(s.original_max_position) / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  const Tensor between = (1.0 - blend) * f / s.factor + blend * f;
  return at::where(wavelength > long_wave, f / s.factor, at::where(wavelength < short_wave, f, between));
}

/// Peng et al. 2023: pairs that turn often keep their frequency, those that turn seldom are stretched, with a ramp between.
Tensor yarn(const RopeShape& s, int64_t turned, const Tensor& powers) {
  const auto dimension = [&](double rotations) {
    return double(turned) * std::log(double(s.original_max_position) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(s.theta));
  };
  double low = dimension(s.beta_fast), high = dimension(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, double(turned - 1));
  if (low == high) high += 0.001;
  const Tensor ramp = at::clamp((at::arange(turned / 2, at::kFloat) - low) / (high - low), 0, 1), keep = 1 - ramp;
  return (s.factor * powers).reciprocal() * (1 - keep) + powers.reciprocal() * keep;
}

Tensor turned_frequencies(const RopeShape& s, int64_t turned, int64_t length) {
  double theta = s.theta;
  if (s.type == "dynamic") {
    const double most = double(s.original_max_position), tokens = std::max(double(length), most), n = double(turned);
    theta *= std::pow(s.factor * tokens / most - (s.factor - 1), n / (n - 2));
  }
  const Tensor powers = at::pow(at::Scalar(theta), at::arange(0, turned, 2, at::kFloat) / double(turned));
  if (s.type == "yarn") return yarn(s, turned, powers);
  if (s.type == "longrope") {
    const std::vector<double>& factors = length > s.original_max_position ? s.long_factor : s.short_factor;
    return (at::tensor(factors, at::kDouble).to(at::kFloat) * powers).reciprocal();
  }
  const Tensor f = powers.reciprocal();
  if (s.type == "llama3") return llama3(s, f);
  if (s.type == "linear") return f / s.factor;
  if (s.type == "proportional") {
    const Tensor all = f / s.factor;
    const auto turning = std::min(int64_t(s.proportion * double(turned) / 2), turned / 2);
    all.narrow(0, turning, turned / 2 - turning).zero_();
    return all;
  }
  return f;
}

}  // namespace

Tensor inverse_frequencies(const RopeShape& s, int64_t head_dim, int64_t length, const Placement& placement) {
  const auto type = placement.options().dtype(wide_type(placement.dtype));
  const int64_t turned = s.turned > 0 ? s.turned : head_dim;
  const Tensor f = turned_frequencies(s, turned, length);
  return (turned == head_dim ? f : at::cat({f, at::zeros({(head_dim - turned) / 2})})).to(type);
}

Rope::Rope(RopeShape shape, int64_t head_dim, const Placement& placement)
    : shape_(std::move(shape)), head_dim_(head_dim), placement_(placement) {
  if (!by_length()) frequencies_ = inverse_frequencies(shape_, head_dim, 0, placement);
  if (shape_.attention_factor == 1.0) return;
  const int64_t turned = shape_.turned > 0 ? shape_.turned : head_dim;
  scale_ = at::full({head_dim / 2}, shape_.attention_factor, at::kFloat);
  scale_.narrow(0, turned / 2, (head_dim - turned) / 2).fill_(1.0);
  scale_ = scale_.to(placement.options().dtype(wide_type(placement.dtype)));
}

ops::RotaryAngles Rope::angles(int64_t first, int64_t count, int64_t length) const {
  ops::RotaryAngles angles =
      ops::rotary_angles(by_length() ? inverse_frequencies(shape_, head_dim_, length, placement_) : frequencies_, first, count);
  if (scale_.defined()) angles = {angles.cos * scale_, angles.sin * scale_};
  return angles;
}

}  // namespace overproof
