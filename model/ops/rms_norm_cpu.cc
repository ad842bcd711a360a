#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/host_values.h"
#include "model/ops/products.h"
#include "model/ops/rms_norm.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const float* data(const Tensor& t) { return host_values<float>(t).data(); }
float* mutable_data(const Tensor& t) { return t.defined() ? mutable_host_values<float>(t).data() : nullptr; }

struct Normed {
  Tensor x, y, rstd;
};

Normed normed(const Tensor& x_in, const Tensor& weight, double eps, at::ScalarType type) {
  const Tensor x = to_f32(x_in);
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const Tensor y = at::empty(x.sizes(), x.options().dtype(type)), rstd = at::empty({rows}, x.options());
  if (type == at::kBFloat16)
    kernels::rms_norm(data(x), data(weight), y.mutable_data_ptr<at::BFloat16>(), mutable_data(rstd), rows, width, eps);
  else
    kernels::rms_norm(data(x), data(weight), mutable_data(y), mutable_data(rstd), rows, width, eps);
  return {x, y, rstd};
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& weight, double eps, at::ScalarType type) {
    const Normed n = normed(x_in, weight, eps, type);
    ctx->save_for_backward({n.x, weight, n.rstd});
    return n.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    const Tensor dx = ctx->needs_input_grad(0) ? at::empty_like(x) : Tensor();
    const Tensor dweight = ctx->needs_input_grad(1) ? at::empty_like(weight) : Tensor();
    const auto run = [&](const auto* gradient) {
      kernels::rms_norm_backward(data(x), data(weight), data(rstd), gradient, mutable_data(dx), mutable_data(dweight), rstd.size(0),
                                 x.size(-1));
    };
    if (dy.scalar_type() == at::kBFloat16) run(dy.const_data_ptr<at::BFloat16>());
    else run(data(dy));
    return {dx, dweight, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::optional<at::ScalarType> out) {
  const at::ScalarType type = out.value_or(x.scalar_type());
  if (!at::GradMode::is_enabled()) return normed(x, weight, eps, type).y;  // a function with a gradient costs more than one row
  return RmsNorm::apply(x, weight, eps, type);
}

}  // namespace overproof::ops::cpu
