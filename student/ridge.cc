#include "student/ridge.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/error.h"
#include "core/interrupt.h"
#include "model/host_values.h"
#include "model/ops/linear.h"
#include "model/torch_setup.h"
#include "student/ffn.h"

namespace overproof {
namespace {

using at::Tensor;

/// Where two ascending lists have the same row: positions in each.
struct Common {
  std::vector<int64_t> a, b;
};

Common common_rows(const Tensor& a, const Tensor& b) {
  const std::span<const int64_t> x = host_values<int64_t>(a), y = host_values<int64_t>(b);
  Common common;
  for (size_t i = 0, j = 0; i < x.size() && j < y.size();) {
    if (x[i] == y[j]) common.a.push_back(int64_t(i)), common.b.push_back(int64_t(j));
    const bool next_x = x[i] <= y[j], next_y = y[j] <= x[i];
    i += next_x, j += next_y;
  }
  return common;
}

/// a^T b over the rows that both have, f32 [width of a, width of b]; undefined when there is none.
Tensor product(const FeatureBlock& a, const FeatureBlock& b) {
  if (a.values.size(0) == 0 || b.values.size(0) == 0) return {};
  if (!a.rows.defined() && !b.rows.defined()) return at::mm(a.values.t(), b.values);
  if (!a.rows.defined()) return at::mm(a.values.index_select(0, b.rows).t(), b.values);
  if (!b.rows.defined()) return at::mm(a.values.t(), b.values.index_select(0, a.rows));
  if (a.rows.is_same(b.rows)) return at::mm(a.values.t(), b.values);
  const Common common = common_rows(a.rows, b.rows);
  if (common.a.empty()) return {};
  return at::mm(a.values.index_select(0, at::tensor(common.a)).t(), b.values.index_select(0, at::tensor(common.b)));
}

/// The change of the free weights that minimises the squared error of each column; gram f64 [F, F] with the penalty on its diagonal.
Tensor conjugate_gradients(const Tensor& gram, const Tensor& right, const Tensor& free, int64_t& steps) {
  constexpr int64_t kMostSteps = 300;
  constexpr double kTolerance = 1e-4;
  const Tensor mask = free.to(at::kDouble), narrow = gram.to(at::kFloat), product = at::empty(right.sizes(), at::kFloat);
  const Tensor scale = gram.diagonal().clamp_min(1e-300).reciprocal().unsqueeze(1);
  const Tensor change = at::zeros_like(right), residual = right * mask;
  const Tensor bound = residual.square().sum(0) * (kTolerance * kTolerance);
  Tensor direction = residual * scale, along = (residual * direction).sum(0);
  for (steps = 0; steps < kMostSteps && residual.square().sum(0).gt(bound).any().item<bool>(); ++steps) {
    throw_if_interrupted();
    ops::matmul_into(product, narrow, direction.to(at::kFloat));
    const Tensor image = product.to(at::kDouble).mul_(mask), curvature = (direction * image).sum(0);
    // A column that is solved does not move.
    const Tensor length = at::where(curvature.gt(0), along / curvature.clamp_min(1e-300), at::zeros_like(along));
    change.add_(direction * length);
    residual.sub_(image * length);
    const Tensor next = residual * scale, next_along = (residual * next).sum(0);
    direction = next + direction * at::where(along.gt(0), next_along / along.clamp_min(1e-300), at::zeros_like(along));
    along = next_along;
  }
  return change;
}

}  // namespace

RidgeSystem::RidgeSystem(std::vector<int64_t> widths, int64_t outputs) : first_{0}, rows_(widths.size()) {
  for (const int64_t width : widths) first_.push_back(first_.back() + width);
  gram_ = at::zeros({first_.back(), first_.back()}, at::kDouble);
  right_ = at::zeros({first_.back(), outputs}, at::kDouble);
}

void RidgeSystem::add(const std::vector<FeatureBlock>& blocks, const Tensor& residual) {
  OVERPROOF_CHECK(blocks.size() == rows_.size());
  struct Pair {
    size_t a, b;  // b == blocks.size(): with the residual
  };
  std::vector<Pair> pairs;
  for (size_t a = 0; a < blocks.size(); ++a) {
    rows_[a] += blocks[a].values.size(0);
    for (size_t b = a; b <= blocks.size(); ++b) pairs.push_back({a, b});
  }
  // One thread a pair, whichever is free: who computes a product does not change it.
  at::parallel_for(0, int64_t(pairs.size()), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t i = begin; i < end; ++i) {
      const auto [a, b] = pairs[size_t(i)];
      const bool with_residual = b == blocks.size();
      const Tensor sum = product(blocks[a], with_residual ? FeatureBlock{residual, {}} : blocks[b]);
      if (!sum.defined()) continue;
      const Tensor into = with_residual ? right_ : gram_.narrow(1, first_[b], first_[b + 1] - first_[b]);
      into.narrow(0, first_[a], first_[a + 1] - first_[a]).add_(sum);
    }
  });
  square_ += sum_of_squares(residual);
}

RidgeSystem::Solution RidgeSystem::solve(double ridge, int64_t least_rows, const Tensor& free) const {
  Solution solution{at::zeros_like(right_), square_, {}};
  std::vector<int64_t> solved;
  for (size_t b = 0; b < rows_.size(); ++b) {
    if (is_kept(b, least_rows)) solution.kept.push_back(b);
    else
      for (int64_t c = first_[b]; c < first_[b + 1]; ++c) solved.push_back(c);
  }
  if (solved.empty()) return solution;
  const Tensor columns = at::tensor(solved), right = right_.index_select(0, columns);
  Tensor gram = gram_.index_select(0, columns).index_select(1, columns);
  gram = gram.triu() + gram.triu(1).t();  // a block on the diagonal is whole, the others are above it
  const double penalty = ridge * gram.diagonal().mean().item<double>();
  Tensor penalised = gram.clone();
  penalised.diagonal().add_(penalty);
  if (free.defined()) {
    const Tensor change = conjugate_gradients(penalised, right, free.index_select(0, columns), solution.steps);
    const OneTorchThread one_thread;
    const double gained = at::sum(change * (at::mm(gram, change) - 2 * right)).item<double>();
    if (!std::isfinite(gained)) throw DivergenceError(fmt::format("the squared error of {} features is not finite: use a larger --ridge or more --tokens", solved.size()));
    solution.square += gained;
    solution.change.index_copy_(0, columns, change);
    return solution;
  }
  const OneTorchThread one_thread;
  const auto [factor, failed] = at::linalg_cholesky_ex(penalised);
  // Rounding can leave a tiny pivot where there should be none.
  const double least = factor.diagonal().square().min().item<double>(), mean = penalised.diagonal().mean().item<double>();
  if (failed.item<int32_t>() != 0 || !(least > 1e-13 * mean))
    throw DivergenceError(fmt::format(
        "the Gram matrix of {} features is singular with ridge {}: use a larger --ridge or more --tokens", solved.size(), ridge));
  const Tensor change = at::cholesky_solve(right, factor);
  solution.square += at::sum(change * (at::mm(gram, change) - 2 * right)).item<double>();
  solution.change.index_copy_(0, columns, change);
  return solution;
}

}  // namespace overproof
