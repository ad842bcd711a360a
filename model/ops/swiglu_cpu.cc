#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/host_values.h"
#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"
#include "model/ops/swiglu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void swiglu_rows(const Tensor& z, const Tensor& a) {
  if (z.scalar_type() == at::kBFloat16)
    kernels::swiglu(z.const_data_ptr<at::BFloat16>(), nullptr, a.mutable_data_ptr<at::BFloat16>(), a.size(0), a.size(1));
  else
    kernels::swiglu(host_values<float>(z).data(), nullptr, mutable_host_values<float>(a).data(), a.size(0), a.size(1));
}

void swiglu_backward_rows(const Tensor& z, const Tensor& da, const Tensor& dz) {
  if (z.scalar_type() == at::kBFloat16)
    kernels::swiglu_backward(z.const_data_ptr<at::BFloat16>(), nullptr, da.const_data_ptr<at::BFloat16>(),
                             dz.mutable_data_ptr<at::BFloat16>(), nullptr, da.size(0), da.size(1));
  else
    kernels::swiglu_backward(host_values<float>(z).data(), nullptr, host_values<float>(da).data(),
                             mutable_host_values<float>(dz).data(), nullptr, da.size(0), da.size(1));
}

class FeedForward : public torch::autograd::Function<FeedForward> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gate_up_in, const Tensor& down_in,
                        const std::optional<Tensor>& residual) {
    const bool bf16 = x.scalar_type() == at::kBFloat16;
    const Tensor gate_up = bf16 ? bf16_copy(gate_up_in) : gate_up_in, down = bf16 ? bf16_copy(down_in) : down_in;
    const Tensor z = at::empty({x.size(0), gate_up.size(0)}, x.options());
    cpu::matmul_into(z, x, gate_up.t(), false);
    ctx->save_for_backward({gate_up_in.requires_grad() ? x : Tensor(), z, gate_up, down});
    const Tensor a = cpu::swiglu(z);
    ctx->saved_data["residual"] = residual.has_value();
    if (!bf16) {
      const Tensor out = residual ? residual->clone() : at::empty({x.size(0), down.size(0)}, x.options());
      cpu::matmul_into(out, a, down.t(), residual.has_value());
      return out;
    }
    const Tensor y = at::empty({x.size(0), down.size(0)}, x.options());
    cpu::matmul_into(y, a, down.t(), false);
    if (!residual) return y;
    const Tensor out = at::empty_like(*residual);
    kernels::add_rows(residual->const_data_ptr<float>(), y.const_data_ptr<at::BFloat16>(), out.mutable_data_ptr<float>(),
                      y.size(0), y.size(1));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &z = saved[1], &gate_up = saved[2], &down = saved[3];  // of the type in which they were multiplied
    const Tensor dy = z.scalar_type() == at::kBFloat16 ? to_bf16(grads[0]) : grads[0].contiguous();
    Tensor dx, dgate_up, ddown;
    if (ctx->needs_input_grad(2)) {
      ddown = at::empty_like(down);
      cpu::matmul_into(ddown, dy.t(), cpu::swiglu(z), false);
      ddown = to_f32(ddown);
    }
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      Tensor da = at::empty({z.size(0), down.size(1)}, z.options());
      cpu::matmul_into(da, dy, down, false);
      const Tensor dz = at::empty_like(z);
      swiglu_backward_rows(z, da, dz);
      da.reset();
      if (ctx->needs_input_grad(0)) {
        dx = at::empty({dz.size(0), gate_up.size(1)}, dz.options());
        cpu::matmul_into(dx, dz, gate_up, false);
      }
      if (ctx->needs_input_grad(1)) {
        dgate_up = at::empty_like(gate_up);
        cpu::matmul_into(dgate_up, dz.t(), x, false);
        dgate_up = to_f32(dgate_up);
      }
    }
    return {dx, dgate_up, ddown, ctx->saved_data["residual"].toBool() && ctx->needs_input_grad(3) ? grads[0] : Tensor()};
  }
};

}  // namespace

Tensor swiglu(const Tensor& gate_up) {
  const Tensor a = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  swiglu_rows(gate_up, a);
  return a;
}

Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  return FeedForward::apply(x, gate_up, down, if_defined(residual));
}

}  // namespace overproof::ops::cpu
