#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/vector_clones.h"
#include "distill/gradients.h"
#include "model/host_values.h"

namespace overproof {

namespace {

constexpr int64_t kPiece = 1 << 16;

/// In 16 lanes, so that the sum is the same at any width of vectors.
OVERPROOF_VECTOR_CLONES double square_sum_of(const float* values, int64_t n) {
  constexpr int64_t kLanes = 16;
  double part[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) part[j] += double(values[i + j]) * double(values[i + j]);
  for (; i < n; ++i) part[i % kLanes] += double(values[i]) * double(values[i]);
  double sum = 0;
  for (const double p : part) sum += p;
  return sum;
}

struct AdamWFactors {
  float keep, beta1, rest1, beta2, rest2, rate, root_scale, epsilon, gradient;
};

OVERPROOF_VECTOR_CLONES void adamw_of(float* weight, const float* gradient, float* first, float* second, int64_t n, AdamWFactors f) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * f.gradient;
    const float m = f.beta1 * first[i] + f.rest1 * g;
    const float v = f.beta2 * second[i] + f.rest2 * (g * g);
    first[i] = m;
    second[i] = v;
    weight[i] = f.keep * weight[i] - f.rate * (m / (std::sqrt(v) * f.root_scale + f.epsilon));
  }
}

}  // namespace

double square_sum(const at::Tensor& tensor) {
  const int64_t n = tensor.numel();
  const float* values = tensor.const_data_ptr<float>();
  std::vector<double> sums(static_cast<size_t>((n + kPiece - 1) / kPiece));
  parallel_for(n, kPiece, [&](int64_t begin, int64_t end) { sums[size_t(begin / kPiece)] = square_sum_of(values + begin, end - begin); });
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

void adamw(const AdamWTensors& t, const AdamW& o) {
  OVERPROOF_CHECK(t.weight.is_contiguous() && t.first.is_contiguous() && t.second.is_contiguous());
  const at::Tensor gradient = t.gradient.contiguous();
  const double correction1 = 1 - std::pow(o.beta1, double(o.step)), correction2 = 1 - std::pow(o.beta2, double(o.step));
  const AdamWFactors f{float(1 - o.rate * o.decay),
                       float(o.beta1),
                       float(1 - o.beta1),
                       float(o.beta2),
                       float(1 - o.beta2),
                       float(o.rate / correction1),
                       float(1 / std::sqrt(correction2)),
                       float(o.epsilon),
                       float(o.gradient_scale)};
  float* weight = mutable_host_values<float>(t.weight).data();
  float* first = mutable_host_values<float>(t.first).data();
  float* second = mutable_host_values<float>(t.second).data();
  const float* grad = gradient.const_data_ptr<float>();
  parallel_for(t.weight.numel(), kPiece, [&](int64_t begin, int64_t end) {
    adamw_of(weight + begin, grad + begin, first + begin, second + begin, end - begin, f);
  });
}

void all_reduce(const Group& group, at::Tensor& tensor) {
  OVERPROOF_CHECK(tensor.is_contiguous());
  const auto n = size_t(tensor.numel());
  if (tensor.scalar_type() == at::kLong) group.all_reduce(std::span(tensor.mutable_data_ptr<int64_t>(), n));
  else group.all_reduce(std::span(tensor.mutable_data_ptr<float>(), n));
}

}  // namespace overproof
