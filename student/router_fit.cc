#include "student/router_fit.h"

#include <ATen/ATen.h>

#include <limits>

namespace overproof {
namespace {

// x = (input - mean) matrix has about unit covariance, so one step size fits every direction.
struct Whitening {
  at::Tensor mean;    // [hidden]
  at::Tensor matrix;  // [hidden, hidden], the inverse transposed Cholesky factor of the covariance
};

Whitening whitening_of(const at::Tensor& input, double ridge, bool centre) {
  const at::Tensor x = input.to(at::kDouble);
  const at::Tensor mean = centre ? x.mean(0) : at::zeros({x.size(1)}, at::kDouble);
  const at::Tensor centred = x - mean;
  at::Tensor covariance = at::matmul(centred.t(), centred) / double(x.size(0));
  covariance.diagonal().add_(ridge * covariance.diagonal().mean() + 1e-12);
  const at::Tensor identity = at::eye(x.size(1), at::kDouble);
  const at::Tensor inverse = at::linalg_solve_triangular(at::linalg_cholesky(covariance), identity, /*upper=*/false);
  return {mean.to(at::kFloat), inverse.t().contiguous().to(at::kFloat)};
}

// Softmax regression by gradient descent with momentum. The target of a token is proportional to norm^2 over its top_k experts: the
// squared error of leaving one out.
//
// Step size: the Hessian of the softmax cross-entropy in the logits is at most (I - 11^T / experts) / 2 (Boehning 1992), and x with
// its constant has about unit second moments, so the gradient's Lipschitz constant is L <= 1/2. Heavy-ball momentum m converges for
// rates below 2 (1 + m) / L >= 7.6 (Polyak 1964); rate 1 leaves a factor of 7 for tokens that are not white, and m = 0.9 makes steps
// of 10 along directions in which the gradient persists. The decay keeps the fit finite where experts are separable by x.
void refine_ranking(const at::Tensor& x, const at::Tensor& norms, int64_t top_k, int64_t steps, bool biased, at::Tensor& weights,
                    at::Tensor& intercept) {
  constexpr double kRate = 1.0, kMomentum = 0.9, kDecay = 1e-3;
  at::Tensor target = norms.square() * largest(norms, top_k);
  target.div_(target.sum(1, true).clamp_min(1e-20));
  const double tokens = double(x.size(0));
  at::Tensor weights_velocity = at::zeros_like(weights), intercept_velocity = at::zeros_like(intercept);
  for (int64_t step = 0; step < steps; ++step) {
    const at::Tensor error = at::softmax(at::matmul(x, weights.t()) + intercept, 1) - target;
    weights_velocity.mul_(kMomentum).add_(at::matmul(error.t(), x) / tokens + kDecay * weights);
    intercept_velocity.mul_(kMomentum).add_(error.mean(0));
    weights.add_(weights_velocity, -kRate);
    if (biased) intercept.add_(intercept_velocity, -kRate);
  }
}

/// Moves `bias` until no expert's load is more than `most` times the mean, or for kRounds rounds: an expert with more than its share
/// becomes less likely, in steps that shrink and are relative to the spread of the scores. The bias with the lowest load wins. `reach` [tokens, 1]:
/// what the bias is multiplied by at each token.
void even_loads(const at::Tensor& scores, const at::Tensor& reach, int64_t top_k, double most, at::Tensor& bias) {
  constexpr int64_t kRounds = 200;
  const double experts = double(scores.size(1)), spread = scores.std(0).mean().item<double>();
  at::Tensor moved = bias.clone();
  double least = std::numeric_limits<double>::infinity();
  for (int64_t round = 0; round < kRounds; ++round) {
    const at::Tensor load = largest(scores + reach * moved, top_k).mean(0) * (experts / double(top_k));
    const double largest_load = load.max().item<double>();
    if (largest_load < least) {
      least = largest_load;
      bias.copy_(moved);
    }
    if (largest_load <= most) return;
    moved = moved - (load - 1) * (0.3 * spread / (1 + 0.05 * double(round)));
  }
}

}  // namespace

at::Tensor largest(const at::Tensor& values, int64_t top_k) {
  return at::zeros_like(values).scatter_(1, std::get<1>(values.topk(top_k, 1)), 1.0);
}

RouterFit fit_router(const at::Tensor& input, const at::Tensor& norms, const RouterFitOptions& options) {
  const Whitening whitening = whitening_of(input, options.ridge, options.biased);
  const at::Tensor x = at::matmul(input - whitening.mean, whitening.matrix);
  // Relative to the mean norm of the token: otherwise tokens with large outputs would dominate the regression.
  const at::Tensor wanted = norms / norms.mean(1, true).clamp_min(1e-20);
  at::Tensor intercept = options.biased ? wanted.mean(0) : at::zeros({norms.size(1)});
  // Without an intercept: from the mean of all experts, which has no part in the ranking.
  at::Tensor weights = at::matmul((options.biased ? wanted - intercept : wanted - 1).t(), x) / double(x.size(0));
  refine_ranking(x, norms, options.top_k, options.steps, options.biased, weights, intercept);

  // Back to the raw input: z = x w^T = (input - mean) (w whiten^T)^T.
  at::Tensor gate = at::matmul(weights, whitening.matrix.t());
  intercept = intercept - at::mv(gate, whitening.mean);
  const double size = at::matmul(input, gate.t()).square().mean().sqrt().item<double>();
  const double factor = size > 0 ? options.scale / size : 0.0;
  gate = (gate * factor).contiguous();
  if (!options.biased) {
    const at::Tensor none = at::zeros({norms.size(1)});
    if (options.most_load <= 0) return {gate, none};
    // The direction: the regression of 1 on the inputs.
    const at::Tensor direction = at::mv(whitening.matrix, x.mean(0));
    at::Tensor along = none.clone();
    even_loads(at::matmul(input, gate.t()), at::mv(input, direction).unsqueeze(1), options.top_k, options.most_load, along);
    return {gate + at::outer(along - along.mean(), direction), none};
  }
  at::Tensor bias = intercept * (factor / 4);
  if (options.most_load > 0)
    even_loads(at::sigmoid(at::matmul(input, gate.t())), at::ones({input.size(0), 1}), options.top_k, options.most_load, bias);
  return {gate, bias - bias.mean()};
}

at::Tensor choose(const RouterFit& router, const at::Tensor& input, int64_t top_k) {
  return largest(at::sigmoid(at::matmul(input, router.gate.t())) + router.bias, top_k);
}

}  // namespace overproof
