#pragma once
// Root mean square normalisation (Zhang and Sennrich 2019). linear.h explains the three namespaces.

#include <ATen/core/Tensor.h>

#include <optional>

namespace overproof::ops {

/// weight * x / sqrt(mean(x^2) + eps), the mean over the last dimension; x [.., width], weight [width]. The CPU form saves x
/// and one number a row. 16-bit inputs are normalised in f32. The result is of type `out`, by default that of x.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, std::optional<at::ScalarType> out = std::nullopt);

namespace cpu {
decltype(ops::rms_norm) rms_norm;
}
namespace aten {
decltype(ops::rms_norm) rms_norm;
}

}  // namespace overproof::ops
