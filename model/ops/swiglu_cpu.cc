#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/host_values.h"
#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"
#include "model/ops/row_kernels_cpu.h"
#include "model/ops/swiglu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class FeedForward : public torch::autograd::Function<FeedForward> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gate_up, const Tensor& down,
                        const std::optional<Tensor>& residual) {
    const Tensor z = at::empty({x.size(0), gate_up.size(0)}, x.options());
    cpu::matmul_into(z, x, gate_up.t(), false);
    ctx->save_for_backward({gate_up.requires_grad() ? x : Tensor(), z, gate_up, down});
    const Tensor a = cpu::swiglu(z);
    ctx->saved_data["residual"] = residual.has_value();
    const Tensor out = residual ? residual->clone() : at::empty({x.size(0), down.size(0)}, x.options());
    cpu::matmul_into(out, a, down.t(), residual.has_value());
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &z = saved[1], &gate_up = saved[2], &down = saved[3];
    Tensor dx, dgate_up, ddown;
    if (ctx->needs_input_grad(2)) {
      ddown = at::empty_like(down);
      cpu::matmul_into(ddown, dy.t(), cpu::swiglu(z), false);
    }
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      Tensor da = at::empty({z.size(0), down.size(1)}, z.options());
      cpu::matmul_into(da, dy, down, false);
      const Tensor dz = at::empty_like(z);
      kernels::swiglu_backward(host_values<float>(z).data(), nullptr, host_values<float>(da).data(),
                               mutable_host_values<float>(dz).data(), nullptr, z.size(0), down.size(1));
      da.reset();
      if (ctx->needs_input_grad(0)) {
        dx = at::empty({dz.size(0), gate_up.size(1)}, dz.options());
        cpu::matmul_into(dx, dz, gate_up, false);
      }
      if (ctx->needs_input_grad(1)) {
        dgate_up = at::empty_like(gate_up);
        cpu::matmul_into(dgate_up, dz.t(), x, false);
      }
    }
    return {dx, dgate_up, ddown, ctx->saved_data["residual"].toBool() && ctx->needs_input_grad(3) ? dy : Tensor()};
  }
};

}  // namespace

Tensor swiglu(const Tensor& gate_up) {
  const Tensor a = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  kernels::swiglu(host_values<float>(gate_up).data(), nullptr, mutable_host_values<float>(a).data(), a.size(0), a.size(1));
  return a;
}

Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  return FeedForward::apply(x, gate_up, down, if_defined(residual));
}

}  // namespace overproof::ops::cpu
