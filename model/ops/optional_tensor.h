#pragma once
// Inside model/ops/: an undefined tensor as an absent argument, which is how autograd functions and ATen take it.

#include <ATen/core/Tensor.h>

#include <optional>

namespace overproof::ops {

inline std::optional<at::Tensor> if_defined(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

}  // namespace overproof::ops
