#pragma once
// Sums over gradients.

#include <ATen/core/Tensor.h>

#include "core/group.h"

namespace overproof {

/// Sum of squares of a contiguous F32 tensor in f64, over pieces of fixed size added in order: the same for any number of threads.
double square_sum(const at::Tensor& tensor);

/// Replaces a contiguous tensor, F32 or I64, by the sum over all ranks.
void all_reduce(const Group& group, at::Tensor& tensor);

}  // namespace overproof
