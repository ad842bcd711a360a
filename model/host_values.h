#pragma once
// The values of a tensor as plain memory. The only way from a tensor to a pointer outside *_cpu.cc (tools/check_layers.py): a
// tensor on another device, of another type or with gaps is refused here instead of being read as if it were on the CPU.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace overproof {

/// The values in row-major order. `tensor` must be on the CPU, contiguous and of type T (float, double, int8_t, int32_t or int64_t);
/// the span is valid as long as the tensor's storage. Throws std::logic_error otherwise.
template <class T>
std::span<const T> host_values(const at::Tensor& tensor);

/// The same for writing. Autograd records no writes, but the tensor's version is counted up once, here.
template <class T>
std::span<T> mutable_host_values(const at::Tensor& tensor);

/// The bytes of a contiguous CPU tensor of any type.
std::span<const uint8_t> host_bytes(const at::Tensor& tensor);
std::span<uint8_t> mutable_host_bytes(const at::Tensor& tensor);

}  // namespace overproof
