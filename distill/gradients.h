#pragma once
// Sums over gradients, and the step that they make.

#include <ATen/core/Tensor.h>

#include "core/group.h"

namespace overproof {

/// Sum of squares of a contiguous F32 tensor in f64, over pieces of fixed size added in order: the same for any number of threads.
double square_sum(const at::Tensor& tensor);

/// A weight with its gradient and the moments of AdamW; F32 on the CPU, of one shape.
struct AdamWTensors {
  const at::Tensor &weight, &gradient, &first, &second;
};
struct AdamW {
  int64_t step;  ///< from 1
  double rate, beta1, beta2, decay, epsilon;
  double gradient_scale = 1;  ///< multiplies the gradient, as clipping does
};

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2, with decay times the learning rate as torch.optim.AdamW has it), in one
/// pass over the four tensors.
void adamw(const AdamWTensors& tensors, const AdamW& options);

/// Replaces a contiguous tensor, F32 or I64, by the sum over all ranks.
void all_reduce(const Group& group, at::Tensor& tensor);

}  // namespace overproof
