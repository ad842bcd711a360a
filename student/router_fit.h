#pragma once
// A linear router fitted to the output norms of the experts.

#include <ATen/core/Tensor.h>

namespace overproof {

/// z = input gate^T; the experts with the largest sigmoid(z) + bias are selected.
struct RouterFit {
  at::Tensor gate;  ///< f32 [experts, hidden]
  at::Tensor bias;  ///< f32 [experts], mean zero
};

struct RouterFitOptions {
  int64_t top_k = 1;
  double ridge = 1e-2;    ///< times the mean variance of the inputs
  int64_t steps = 60;     ///< of the ranking refinement; 0 leaves the regression
  double scale = 0.0625;  ///< root mean square of z over the fitted tokens
  double most_load = 0;   ///< largest load of an expert over the mean load of all, at least 1; 0: no limit
  bool biased = true;     ///< whether the student has a selection bias
};

/// Ridge regression from the FFN input to each expert's output norm, then steps of softmax regression towards the top_k experts of
/// largest norm (only the ranking matters for selection), both in whitened coordinates, then scaled to a small z. A quarter of the
/// intercept becomes the bias: sigmoid(z) is 1/2 + z/4 near zero. With a limit of the load the bias is then moved until the fitted tokens
/// keep it: training evens the loads anyway, and an expert without tokens cannot be recovered.
/// Without a bias, inputs are not centred and no intercept is fitted, and what would move the bias moves the gate along the direction on which
/// all inputs have nearly the same value: after an RMSNorm there is one, as their mean is not zero.
///   input f32 [tokens, hidden]; norms f32 [tokens, experts]
RouterFit fit_router(const at::Tensor& input, const at::Tensor& norms, const RouterFitOptions& options);

/// The selected experts as a 0/1 mask, f32 [tokens, experts].
at::Tensor choose(const RouterFit& router, const at::Tensor& input, int64_t top_k);

/// 0/1 mask of each row's `top_k` largest values.
at::Tensor largest(const at::Tensor& values, int64_t top_k);

}  // namespace overproof
