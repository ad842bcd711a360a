#pragma once
// Inside model/: the memory of a KvCache (model/decoder.h).

#include <ATen/core/Tensor.h>

#include <utility>

#include "model/decoder.h"

namespace overproof {

/// Puts keys and values [1, kv_heads, new, head_dim] of `layer` behind the `length` that are there, and returns views of all of
/// them, [1, kv_heads, length + new, head_dim]. The caller raises `length` after the last layer.
std::pair<at::Tensor, at::Tensor> extend(KvCache& cache, int64_t layer, const at::Tensor& keys, const at::Tensor& values);

}  // namespace overproof
