#include "model/functions.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "model/row_kernels.h"

namespace overproof::nn {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t kTileRows = 256, kMaxTileColumns = 768;

/// Columns of a tile: about a quarter of the whole, so that small products still feed several cores.
int64_t tile_columns(int64_t columns) { return std::clamp<int64_t>((columns / 4 + 63) / 64 * 64, 64, kMaxTileColumns); }

const float* data(const Tensor& t) {
  OVERPROOF_CHECK(t.is_contiguous() && t.scalar_type() == at::kFloat);
  return t.const_data_ptr<float>();
}

class Linear : public Function<Linear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& residual) {
    // x is kept for the weight's gradient only.
    ctx->save_for_backward({weight.requires_grad() ? x : Tensor(), weight});
    ctx->saved_data["bias"] = bias.has_value();
    ctx->saved_data["residual"] = residual.has_value();
    Tensor out;
    if (residual) {
      out = residual->clone();
    } else if (bias) {
      out = bias->expand({x.size(0), weight.size(0)}).clone(at::MemoryFormat::Contiguous);
    } else {
      out = at::empty({x.size(0), weight.size(0)}, x.options());
    }
    matmul_into(out, x, weight.t(), residual || bias);
    if (residual && bias) out.add_(*bias);
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &weight = saved[1];
    Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) {
      dx = at::empty({dy.size(0), weight.size(1)}, dy.options());
      matmul_into(dx, dy, weight);
    }
    if (ctx->needs_input_grad(1)) {
      dweight = at::empty_like(weight);
      matmul_into(dweight, dy.t(), x);
    }
    // Inputs left out have no place among those that needs_input_grad counts.
    const bool bias = ctx->saved_data["bias"].toBool(), residual = ctx->saved_data["residual"].toBool();
    if (bias && ctx->needs_input_grad(2)) dbias = dy.sum(0);
    return {dx, dweight, dbias, residual && ctx->needs_input_grad(bias ? 3 : 2) ? dy : Tensor()};
  }
};

class RmsNorm : public Function<RmsNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double eps) {
    const int64_t width = x.size(-1), rows = x.numel() / width;
    Tensor y = at::empty_like(x), rstd = at::empty({rows}, x.options());
    kernels::rms_norm(data(x), data(weight), y.data_ptr<float>(), rstd.data_ptr<float>(), rows, width, eps);
    ctx->save_for_backward({x, weight, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    const Tensor dx = ctx->needs_input_grad(0) ? at::empty_like(x) : Tensor();
    const Tensor dweight = ctx->needs_input_grad(1) ? at::empty_like(weight) : Tensor();
    kernels::rms_norm_backward(data(x), data(weight), data(rstd), data(dy), dx.defined() ? dx.data_ptr<float>() : nullptr,
                               dweight.defined() ? dweight.data_ptr<float>() : nullptr, rstd.size(0), x.size(-1));
    return {dx, dweight, Tensor()};
  }
};

class Rotate : public Function<Rotate> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turn(x, cos, sin, 1.0f);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {turn(grads[0].contiguous(), saved[0], saved[1], -1.0f), Tensor(), Tensor()};
  }

 private:
  static Tensor turn(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
    Tensor y = at::empty_like(x);
    kernels::rotate(data(x), data(cos), data(sin), y.data_ptr<float>(), x.size(0), cos.size(0), x.size(1), x.size(2), sign);
    return y;
  }
};

class FeedForward : public Function<FeedForward> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gate_up, const Tensor& down,
                        const std::optional<Tensor>& residual) {
    const Tensor z = at::empty({x.size(0), gate_up.size(0)}, x.options());
    matmul_into(z, x, gate_up.t());
    ctx->save_for_backward({gate_up.requires_grad() ? x : Tensor(), z, gate_up, down});
    const Tensor a = activation(z);
    ctx->saved_data["residual"] = residual.has_value();
    Tensor out = residual ? residual->clone() : at::empty({x.size(0), down.size(0)}, x.options());
    matmul_into(out, a, down.t(), residual.has_value());
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &z = saved[1], &gate_up = saved[2], &down = saved[3];
    Tensor dx, dgate_up, ddown;
    if (ctx->needs_input_grad(2)) {
      ddown = at::empty_like(down);
      matmul_into(ddown, dy.t(), activation(z));
    }
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      Tensor da = at::empty({z.size(0), down.size(1)}, z.options());
      matmul_into(da, dy, down);
      const Tensor dz = at::empty_like(z);
      kernels::swiglu_backward(data(z), nullptr, data(da), dz.data_ptr<float>(), nullptr, z.size(0), down.size(1));
      da.reset();
      if (ctx->needs_input_grad(0)) {
        dx = at::empty({dz.size(0), gate_up.size(1)}, dz.options());
        matmul_into(dx, dz, gate_up);
      }
      if (ctx->needs_input_grad(1)) {
        dgate_up = at::empty_like(gate_up);
        matmul_into(dgate_up, dz.t(), x);
      }
    }
    return {dx, dgate_up, ddown, ctx->saved_data["residual"].toBool() && ctx->needs_input_grad(3) ? dy : Tensor()};
  }

 private:
  static Tensor activation(const Tensor& z) {
    const Tensor a = at::empty({z.size(0), z.size(1) / 2}, z.options());
    kernels::swiglu(data(z), nullptr, a.data_ptr<float>(), a.size(0), a.size(1));
    return a;
  }
};

std::optional<Tensor> given(const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; }

}  // namespace

void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  const int64_t rows = out.size(0), columns = out.size(1), width = tile_columns(columns);
  const int64_t across = (columns + width - 1) / width, down = (rows + kTileRows - 1) / kTileRows;
  at::parallel_for(0, across * down, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t r = tile / across * kTileRows, c = tile % across * width;
      const int64_t m = std::min(kTileRows, rows - r), n = std::min(width, columns - c);
      Tensor part = out.narrow(0, r, m).narrow(1, c, n);
      if (accumulate) {
        part.addmm_(a.narrow(0, r, m), b.narrow(1, c, n));
      } else {
        at::mm_out(part, a.narrow(0, r, m), b.narrow(1, c, n));
      }
    }
  });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  return Linear::apply(x, weight, given(bias), given(residual));
}
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) { return RmsNorm::apply(x, weight, eps); }
Tensor rotate_positions(const Tensor& x, const Tensor& cos, const Tensor& sin) { return Rotate::apply(x, cos, sin); }
Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  return FeedForward::apply(x, gate_up, down, given(residual));
}

}  // namespace overproof::nn
