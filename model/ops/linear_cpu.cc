#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTileRows = 256, kMaxTileColumns = 768;

/// Columns of a tile: about a quarter of the whole, so that small products still feed several cores.
int64_t tile_columns(int64_t columns) { return std::clamp<int64_t>((columns / 4 + 63) / 64 * 64, 64, kMaxTileColumns); }

class Linear : public torch::autograd::Function<Linear> {
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
    cpu::matmul_into(out, x, weight.t(), residual || bias);
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
      cpu::matmul_into(dx, dy, weight, false);
    }
    if (ctx->needs_input_grad(1)) {
      dweight = at::empty_like(weight);
      cpu::matmul_into(dweight, dy.t(), x, false);
    }
    // needs_input_grad() does not count inputs that were left out.
    const bool bias = ctx->saved_data["bias"].toBool(), residual = ctx->saved_data["residual"].toBool();
    if (bias && ctx->needs_input_grad(2)) dbias = dy.sum(0);
    return {dx, dweight, dbias, residual && ctx->needs_input_grad(bias ? 3 : 2) ? dy : Tensor()};
  }
};

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
  return Linear::apply(x, weight, if_defined(bias), if_defined(residual));
}

}  // namespace overproof::ops::cpu
