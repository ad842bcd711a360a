#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "model/ops/gemm.h"
#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kMostRows = 512, kMostColumns = 1024, kLeastPiece = 128;

/// Length of the pieces into which `whole` is cut evenly, none longer than `most`: a short last one would leave a thread without work.
int64_t even_piece(int64_t whole, int64_t most) {
  const int64_t pieces = (whole + most - 1) / most, length = (whole + pieces - 1) / pieces;
  return (length + 31) / 32 * 32;
}

/// x @ weight^T with bf16 operands: in bf16, or added to `residual` in f32.
Tensor bf16_product(const Tensor& x16, const Tensor& weight16, const Tensor& bias, const Tensor& residual) {
  const Tensor y = at::empty({x16.size(0), weight16.size(0)}, x16.options());
  cpu::matmul_into(y, x16, weight16.t(), false);
  if (!residual.defined()) return bias.defined() ? y.add_(bias) : y;
  const Tensor out = at::empty_like(residual);
  kernels::add_rows(residual.const_data_ptr<float>(), y.const_data_ptr<at::BFloat16>(), out.mutable_data_ptr<float>(), y.size(0),
                    y.size(1));
  return bias.defined() ? out.add_(bias) : out;
}

class Linear : public torch::autograd::Function<Linear> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& residual) {
    ctx->saved_data["bias"] = bias.has_value();
    ctx->saved_data["residual"] = residual.has_value();
    // x is kept for the weight's gradient only.
    if (x.scalar_type() == at::kBFloat16) {
      const Tensor weight16 = bf16_copy(weight);
      ctx->save_for_backward({weight.requires_grad() ? x : Tensor(), weight16});
      return bf16_product(x, weight16, bias.value_or(Tensor()), residual.value_or(Tensor()));
    }
    ctx->save_for_backward({weight.requires_grad() ? x : Tensor(), weight});
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
    const Tensor &x = saved[0], &weight = saved[1];  // both of the type in which they were multiplied
    const Tensor dy = weight.scalar_type() == at::kBFloat16 ? to_bf16(grads[0]) : grads[0].contiguous();
    Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) {
      dx = at::empty({dy.size(0), weight.size(1)}, dy.options());
      cpu::matmul_into(dx, dy, weight, false);
    }
    if (ctx->needs_input_grad(1)) {
      dweight = at::empty_like(weight);
      cpu::matmul_into(dweight, dy.t(), x, false);
      dweight = to_f32(dweight);
    }
    // needs_input_grad() does not count inputs that were left out.
    const bool bias = ctx->saved_data["bias"].toBool(), residual = ctx->saved_data["residual"].toBool();
    if (bias && ctx->needs_input_grad(2)) dbias = grads[0].sum(0, false, at::kFloat);
    return {dx, dweight, dbias, residual && ctx->needs_input_grad(bias ? 3 : 2) ? grads[0] : Tensor()};
  }
};

}  // namespace

// Tiles depend on sizes and layouts alone, so that no bit depends on the number of threads. Each packs its operands anew: a teacher's
// forward pass became 2 % faster when tiles of 256 x 192 were made larger, a step did not. Half of the rows or columns at most, so that
// small products still feed two threads. oneDNN copies an operand that is neither whole rows nor whole columns of its memory, so an operand
// is cut along its memory where it can be: rows of a plain `a`, columns of a transposed `b`.
void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  const int64_t rows = out.size(0), columns = out.size(1);
  const bool cut_rows = a.stride(1) == 1, cut_columns = b.stride(0) == 1 || !cut_rows;
  const auto piece = [](int64_t whole, bool cut, bool halve, int64_t most) {
    return !cut ? whole : even_piece(whole, std::clamp(halve ? (whole + 1) / 2 : whole, kLeastPiece, most));
  };
  const int64_t height = piece(rows, cut_rows, !cut_columns, kMostRows), width = piece(columns, cut_columns, true, kMostColumns);
  const int64_t across = (columns + width - 1) / width, down = (rows + height - 1) / height, tiles = across * down;
  // Never one iteration: that would run outside of a parallel region, where MKL divides even a small product among threads.
  at::parallel_for(0, std::max<int64_t>(tiles, 2), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t tile = begin; tile < std::min(end, tiles); ++tile) {
      const int64_t r = tile / across * height, c = tile % across * width;
      const int64_t m = std::min(height, rows - r), n = std::min(width, columns - c);
      gemm(out.narrow(0, r, m).narrow(1, c, n), a.narrow(0, r, m), b.narrow(1, c, n), accumulate);
    }
  });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  return Linear::apply(x, weight, if_defined(bias), if_defined(residual));
}

}  // namespace overproof::ops::cpu
