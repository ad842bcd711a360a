#include "student/input_record.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/host_values.h"
#include "model/ops/linear.h"

namespace overproof {
namespace {

constexpr double kF16Largest = 65504.0;

}  // namespace

InputRecord::InputRecord(int64_t columns, int64_t rows, const RecorderOptions& options)
    : rows_(rows),
      amax_(at::zeros({columns}, at::kFloat)),
      range_(at::zeros({2}, at::kFloat)),
      samples_(at::empty({std::min(options.samples, rows), columns}, at::kHalf)) {
  square_ = at::zeros({columns}, at::kDouble);
  if (options.hessians) hessian_ = at::zeros({columns, columns}, at::kFloat);
}

void InputRecord::add(const at::Tensor& x) {
  const int64_t n = x.size(0), count = samples_.size(0);
  if (n == 0) return;
  OVERPROOF_CHECK(seen_ + n <= rows_);
  const at::Tensor least = x.amin(0), largest = x.amax(0);
  amax_ = at::maximum(amax_, at::maximum(largest, -least));
  const at::Tensor ends = at::stack({least.min(), largest.max()});
  range_ = seen_ == 0 ? ends : at::stack({at::minimum(range_[0], ends[0]), at::maximum(range_[1], ends[1])});
  // Sample i is the middle of part i when all rows are cut into as many equal parts as there are samples.
  for (; kept_ < count; ++kept_) {
    const int64_t row = (2 * kept_ + 1) * rows_ / (2 * count);
    if (row >= seen_ + n) break;
    samples_[kept_].copy_(x[row - seen_].clamp(-kF16Largest, kF16Largest));  // f16 cannot hold the largest activations
  }
  square_.add_(x.square().sum(0, false, at::kDouble));
  if (hessian_.defined()) ops::matmul_into(hessian_, x.t(), x, seen_ > 0);
  seen_ += n;
}

void InputRecord::file(ActivationJournal& journal, std::vector<std::string> weights, int64_t routed, int64_t forced) const {
  OVERPROOF_CHECK(seen_ == rows_ && seen_ == routed + forced);
  const auto floats = host_values<float>;
  const at::Tensor square = (square_ / double(std::max<int64_t>(1, seen_))).to(at::kFloat);
  const at::Tensor amax = amax_.contiguous(), range = range_.contiguous(),
                   hessian = hessian_.defined() ? (hessian_ / double(std::max<int64_t>(1, seen_))).contiguous() : at::Tensor();
  // A sum in double precision is finite where each of its f32 values is.
  double total = square.sum(at::kDouble).item<double>() + amax.sum(at::kDouble).item<double>() + range.sum(at::kDouble).item<double>();
  if (hessian.defined()) total += hessian.diagonal().sum(at::kDouble).item<double>();
  if (!std::isfinite(total))
    throw DivergenceError(fmt::format("the inputs of '{}' are not finite, so they have no statistics", weights.front()));
  const auto samples = reinterpret_cast<const uint16_t*>(host_bytes(samples_).data());
  journal.add({.weights = std::move(weights),
               .amax = floats(amax),
               .square = floats(square),
               .range = {floats(range)[0], floats(range)[1]},
               .samples = std::span(samples, size_t(samples_.numel())),
               .hessian = hessian.defined() ? floats(hessian) : std::span<const float>(),
               .routed = routed,
               .forced = forced});
}

}  // namespace overproof
