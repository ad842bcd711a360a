#include "student/carve_trial.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "student/ffn.h"
#include "student/ridge.h"
#include "student/router_fit.h"

namespace overproof {
namespace {

using at::Tensor;

constexpr int64_t kBatchRows = 2048;

/// Calls body(first, count) for batches of [begin, end).
template <class Body>
void each_batch(int64_t begin, int64_t end, const Body& body) {
  for (int64_t first = begin; first < end; first += kBatchRows) body(first, std::min(kBatchRows, end - first));
}

}  // namespace

CarveTrial::CarveTrial(Tensor activations, const Tensor& down, Tensor input, int64_t fitted, const CarveOptions& options)
    : activations_(std::move(activations)),
      down_(down),
      input_(std::move(input)),
      output_(at::matmul(activations_, down.t())),
      fitted_(fitted),
      options_(options) {}

CarveTrial::Layout CarveTrial::layout(const LayerCarving& carving) const {
  const int64_t ff = carving.neurons.size(0), width = (ff - carving.shared_neurons) / carving.gate.size(0);
  return {width, carving.shared_neurons};
}

/// What outputs with the teacher's projections are multiplied by, [count, experts]: 2 sigmoid(z), or top_k times the softmax of those `chosen`
/// (0/1 [count, experts]), those of the others relative to the same sum.
Tensor CarveTrial::expert_weights(const LayerCarving& carving, int64_t first, int64_t count, const Tensor& chosen) const {
  const Tensor z = at::matmul(input_.narrow(0, first, count), carving.gate.t());
  if (options_.profile != StudentProfile::qwen2_moe) return at::sigmoid(z).mul_(2);
  const Tensor scores = at::softmax(z, 1);
  return scores * (double(carving.top_k) / (scores * chosen).sum(1, true));
}

Tensor CarveTrial::gains(const LayerCarving& carving, const Tensor& down, int64_t first, int64_t count) const {
  const Layout parts = layout(carving);
  const Tensor own = activations_.narrow(0, first, count);
  const auto output_of = [&](int64_t begin, int64_t neurons) {
    return at::matmul(own.index_select(1, carving.neurons.narrow(0, begin, neurons)), down.narrow(0, begin, neurons));
  };
  Tensor residual = output_.narrow(0, first, count);
  if (parts.shared > 0) residual = residual - output_of(0, parts.shared);
  const Tensor weights = expert_weights(carving, first, count, choose({carving.gate, carving.bias}, input_.narrow(0, first, count), carving.top_k));
  Tensor gains = at::empty_like(weights);
  for (int64_t e = 0; e < weights.size(1); ++e) {
    const Tensor out = output_of(parts.shared + e * parts.width, parts.width).mul_(weights.narrow(1, e, 1));
    gains.select(1, e).copy_((out * (2 * residual - out)).sum(1));
  }
  return gains;
}

Recovered CarveTrial::recover(const LayerCarving& carving) const {
  const Layout parts = layout(carving);
  const int64_t experts = carving.gate.size(0), top_k = carving.top_k;
  std::vector<int64_t> widths;
  if (parts.shared > 0) widths.push_back(parts.shared);
  widths.insert(widths.end(), size_t(experts), parts.width);
  const Tensor start = down_.index_select(1, carving.neurons).t().contiguous();  // [ff, hidden]

  struct Batch {
    std::vector<FeatureBlock> blocks;
    Tensor residual;
  };
  const auto batch = [&](int64_t first, int64_t count, const Tensor& chosen, const Tensor& down) {
    const Tensor own = activations_.narrow(0, first, count), weights = expert_weights(carving, first, count, chosen);
    Batch b{{}, output_.narrow(0, first, count).clone()};
    if (parts.shared > 0) {
      b.blocks.push_back({own.index_select(1, carving.neurons.narrow(0, 0, parts.shared)), {}});
      b.residual.sub_(at::matmul(b.blocks[0].values, down.narrow(0, 0, parts.shared)));
    }
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t begin = parts.shared + e * parts.width;
      const Tensor rows = chosen.select(1, e).nonzero().flatten();
      const Tensor values = own.index_select(0, rows)
                                .index_select(1, carving.neurons.narrow(0, begin, parts.width))
                                .mul_(weights.select(1, e).index_select(0, rows).unsqueeze(1));
      b.residual.index_add_(0, rows, at::matmul(values, down.narrow(0, begin, parts.width)), -1);
      b.blocks.push_back({values, rows});
    }
    return b;
  };

  RidgeSystem system(widths, down_.size(0));
  each_batch(0, fitted_, [&](int64_t first, int64_t count) {
    const Tensor chosen = choose({carving.gate, carving.bias}, input_.narrow(0, first, count), top_k);
    const Batch b = batch(first, count, chosen, start);
    system.add(b.blocks, b.residual);
  });
  Recovered recovered;
  recovered.down = (start.to(at::kDouble) + system.solve(options_.recovery_ridge, 1).change).to(at::kFloat);

  const int64_t tokens = input_.size(0), begin = fitted_ < tokens ? fitted_ : 0;
  double whole = 0;
  each_batch(begin, tokens, [&](int64_t first, int64_t count) {
    whole += sum_of_squares(output_.narrow(0, first, count));
    const Tensor routed = choose({carving.gate, carving.bias}, input_.narrow(0, first, count), top_k);
    const Tensor best = largest(gains(carving, recovered.down, first, count), top_k);
    recovered.error += sum_of_squares(batch(first, count, routed, recovered.down).residual);
    recovered.oracle += sum_of_squares(batch(first, count, best, recovered.down).residual);
  });
  if (whole > 0) recovered.error /= whole, recovered.oracle /= whole;
  return recovered;
}

LayerCarving CarveTrial::refit(const LayerCarving& carving, const Recovered& recovered) const {
  Tensor norms = at::empty({fitted_, carving.gate.size(0)});
  each_batch(0, fitted_, [&](int64_t first, int64_t count) {
    norms.narrow(0, first, count).copy_(gains(carving, recovered.down, first, count).clamp_min_(0).sqrt_());
  });
  const RouterFit fit = fit_router(input_.narrow(0, 0, fitted_), norms,
                                   {carving.top_k, options_.ridge, options_.ranking_steps, options_.router_scale, options_.most_load,
                                    options_.profile != StudentProfile::qwen2_moe});
  LayerCarving again = carving;
  again.gate = fit.gate;
  again.bias = fit.bias;
  return again;
}

}  // namespace overproof
