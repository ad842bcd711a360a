#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/host_values.h"
#include "model/ops/rotary.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor turn(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
  const Tensor y = at::empty_like(x);
  const auto run = [&](const auto* from, auto* to) {
    kernels::rotate(from, host_values<float>(cos).data(), host_values<float>(sin).data(), to, x.size(0), cos.size(0), x.size(1), x.size(2),
                    sign);
  };
  if (x.scalar_type() == at::kBFloat16) run(x.const_data_ptr<at::BFloat16>(), y.mutable_data_ptr<at::BFloat16>());
  else run(host_values<float>(x).data(), mutable_host_values<float>(y).data());
  return y;
}

class Rotate : public torch::autograd::Function<Rotate> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turn(x, cos, sin, 1.0f);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {turn(grads[0].contiguous(), saved[0], saved[1], -1.0f), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rotate_positions(const Tensor& x, const RotaryAngles& angles) {
  return at::GradMode::is_enabled() ? Rotate::apply(x, angles.cos, angles.sin) : turn(x, angles.cos, angles.sin, 1.0f);
}

}  // namespace overproof::ops::cpu
