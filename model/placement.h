#pragma once
// Where a model's tensors are kept and in which number type it computes.

#include <ATen/core/Tensor.h>

namespace overproof {

struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  ///< f32, f64, bf16 or f16

  at::TensorOptions options() const { return at::TensorOptions().device(device).dtype(dtype); }
  bool operator==(const Placement&) const = default;
};

inline Placement placement_of(const at::Tensor& tensor) { return {tensor.device(), tensor.scalar_type()}; }

/// The type for values that must not be rounded to 16 bits (routers, rotary angles, logits of a loss): f64 for f64, else f32.
inline at::ScalarType wide_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// True where the operators in model/ops/*_cpu.cc run: f32 on the CPU. Those in *_aten.cc run everywhere else.
inline bool has_cpu_kernels(const Placement& p) { return p.device.is_cpu() && p.dtype == at::kFloat; }

}  // namespace overproof
