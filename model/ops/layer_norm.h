#pragma once
// Layer normalisation (Ba et al. 2016), composed of ATen operations alone.

#include <ATen/core/Tensor.h>

#include <optional>

namespace overproof::ops {

/// weight x (x - mean) / sqrt(variance + eps) + bias over the last dimension; weight and bias [width] or undefined. The result is of type `out`,
/// by default that of x. A row's bits depend on that row alone.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      std::optional<at::ScalarType> out = std::nullopt);

}  // namespace overproof::ops
