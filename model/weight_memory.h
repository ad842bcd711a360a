#pragma once
// Inside model/: memory for weights that are read again and again.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace overproof {

/// Gives tensors on the CPU out of a few large blocks, in the order of the calls, on large pages where the system has them: a decoder
/// reads each page once a token, so small ones miss the processor's table of pages every time. A block lives as long as one of its
/// tensors.
class WeightMemory {
 public:
  /// Not initialised.
  at::Tensor take(at::IntArrayRef shape, at::ScalarType type);

 private:
  at::Tensor block_;  // U8
  int64_t used_ = 0, next_size_ = 2 << 20;
};

}  // namespace overproof
