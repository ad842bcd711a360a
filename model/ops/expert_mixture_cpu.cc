#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "model/host_values.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/free_threads.h"
#include "model/ops/gemm.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The pairs (token, slot) sorted by expert, tokens ascending within an expert.
struct Sorted {
  std::vector<int64_t> begin;   ///< [experts + 1]: rows of expert e are [begin[e], begin[e + 1])
  std::vector<int64_t> pair;    ///< [rows]: token x k + slot of a sorted row; -1: a row of zeros
  std::vector<int64_t> row_of;  ///< [tokens x k]: where in `pair` it is

  int64_t rows() const { return int64_t(pair.size()); }
};

/// Rows of an expert are a multiple of gemm_row_multiple(type), with rows of zeros at the end: every expert of every step has another
/// number of them.
Sorted sort_by_expert(const Tensor& selected, int64_t experts, at::ScalarType type) {
  const int64_t multiple = gemm_row_multiple(type);
  const int32_t* id = selected.const_data_ptr<int32_t>();
  const int64_t pairs = selected.numel();
  Sorted s{std::vector<int64_t>(size_t(experts + 1)), {}, std::vector<int64_t>(size_t(pairs))};
  for (int64_t p = 0; p < pairs; ++p) ++s.begin[size_t(id[p]) + 1];
  for (int64_t& count : s.begin) count = (count + multiple - 1) / multiple * multiple;
  std::partial_sum(s.begin.begin(), s.begin.end(), s.begin.begin());
  s.pair.assign(size_t(s.begin.back()), -1);
  std::vector<int64_t> next(s.begin.begin(), s.begin.end() - 1);
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t row = next[size_t(id[p])]++;
    s.pair[size_t(row)] = p;
    s.row_of[size_t(p)] = row;
  }
  return s;
}

/// Rows of `x` at the tokens of sorted rows [first, first + count).
Tensor gather_rows(const Tensor& x, const Sorted& sorted, int64_t first, int64_t count, int64_t k) {
  const int64_t width = x.size(1) * int64_t(x.element_size());  // in bytes
  Tensor out = at::empty({count, x.size(1)}, x.options());
  const auto* in = static_cast<const char*>(x.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t r = 0; r < count; ++r) {
    const int64_t pair = sorted.pair[size_t(first + r)];
    if (pair < 0) std::memset(to + r * width, 0, size_t(width));
    else std::memcpy(to + r * width, in + pair / k * width, size_t(width));
  }
  return out;
}

/// out[t] = base[t] + sum over slots, ascending, of rows[row_of[t, slot]]; base undefined: 0. f32.
template <class T>
Tensor add_rows_back(const Tensor& base, const Tensor& rows, const Sorted& sorted, int64_t k) {
  const int64_t width = rows.size(1), tokens = int64_t(sorted.row_of.size()) / k;
  const Tensor out = at::empty({tokens, width}, rows.options().dtype(at::kFloat));
  const float* start = base.defined() ? base.const_data_ptr<float>() : nullptr;
  const T* in = rows.const_data_ptr<T>();
  float* to = out.mutable_data_ptr<float>();
  const std::vector<float> zeros(start ? 0 : size_t(width));
  at::parallel_for(0, tokens, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < k; ++j) {
        const float* before = j > 0 ? to + t * width : start ? start + t * width : zeros.data();
        kernels::add_row(before, in + sorted.row_of[size_t(t * k + j)] * width, to + t * width, width);
      }
  });
  return out;
}

/// weights [tokens, k] in the order of sorted rows; 0 for rows of zeros.
Tensor sorted_weights(const Tensor& weights, const Sorted& sorted) {
  Tensor out = at::zeros({sorted.rows()}, weights.options());
  const Tensor contiguous = weights.contiguous();
  const float* in = contiguous.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  for (size_t p = 0; p < sorted.row_of.size(); ++p) to[sorted.row_of[p]] = in[p];
  return out;
}

/// The memory of a tensor of type T, from row `first`.
template <class T>
const T* rows_of(const Tensor& t, int64_t first) {
  return t.const_data_ptr<T>() + first * t.size(1);
}

/// What the experts compute: z = gathered x @ gate_up^T and y = (scaled SwiGLU of z) @ down^T, rows sorted by expert.
template <class T>
void run_experts(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Sorted& sorted, const Tensor& scale, int64_t k,
                 const Tensor& z, const Tensor& y) {
  const int64_t width = down.size(2);
  for_each_on_free_thread(down.size(0), [&](int64_t e) {
    const int64_t first = sorted.begin[size_t(e)], count = sorted.begin[size_t(e) + 1] - first;
    if (count == 0) return;
    const Tensor ze = z.narrow(0, first, count), ye = y.narrow(0, first, count);
    gemm(ze, gather_rows(x, sorted, first, count, k), gate_up[e].t());
    const Tensor a = at::empty({count, width}, x.options());
    kernels::swiglu(rows_of<T>(z, first), scale.const_data_ptr<float>() + first, a.mutable_data_ptr<T>(), count, width);
    gemm(ye, a, down[e].t());
  });
}

/// What the backward pass of the experts reads, and which gradients it writes; undefined ones are not computed.
struct ExpertGradients {
  const Tensor &x, &dy, &gate_up, &down, &z, &scale;
  Tensor dgate_up, ddown;  // f32, of the shape of the weights
  Tensor dscale;           // f32 [rows]
  Tensor dx_rows;          // [rows, hidden]
  bool want_weights;
};

/// into = a^T @ b for one expert's weight, in f32.
void weight_gradient(Tensor into, const Tensor& a, const Tensor& b) {
  if (a.scalar_type() == at::kFloat) gemm(into, a.t(), b);
  else into.copy_(at::mm(a.t(), b));
}

template <class T>
void run_experts_backward(const ExpertGradients& g, const Sorted& sorted, int64_t k) {
  const int64_t width = g.down.size(2);
  const float* scales = g.scale.const_data_ptr<float>();
  for_each_on_free_thread(g.down.size(0), [&](int64_t e) {
    const int64_t first = sorted.begin[size_t(e)], count = sorted.begin[size_t(e) + 1] - first;
    if (count == 0) {
      if (g.dgate_up.defined()) g.dgate_up[e].zero_();
      if (g.ddown.defined()) g.ddown[e].zero_();
      return;
    }
    const T* ze = rows_of<T>(g.z, first);
    const Tensor dye = gather_rows(g.dy, sorted, first, count, k);
    const Tensor a = at::empty({count, width}, g.z.options());
    if (g.ddown.defined()) {
      kernels::swiglu(ze, scales + first, a.mutable_data_ptr<T>(), count, width);
      weight_gradient(g.ddown[e], dye, a);
    }
    if (!g.dx_rows.defined() && !g.want_weights && !g.dgate_up.defined()) return;
    gemm(a, dye, g.down[e]);  // now the gradient of the activation, before the routing weight
    const Tensor dz = at::empty({count, 2 * width}, g.z.options());
    kernels::swiglu_backward(ze, scales + first, a.const_data_ptr<T>(), dz.mutable_data_ptr<T>(),
                             g.dscale.mutable_data_ptr<float>() + first, count, width);
    if (g.dgate_up.defined()) weight_gradient(g.dgate_up[e], dz, gather_rows(g.x, sorted, first, count, k));
    if (g.dx_rows.defined()) gemm(g.dx_rows.narrow(0, first, count), dz, g.gate_up[e]);
  });
}

class ExpertMixture : public torch::autograd::Function<ExpertMixture> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& base, const Tensor& weights,
                        const Tensor& selected, const Tensor& gate_up_in, const Tensor& down_in) {
    const bool bf16 = x.scalar_type() == at::kBFloat16;
    const Tensor gate_up = bf16 ? bf16_copy(gate_up_in) : gate_up_in, down = bf16 ? bf16_copy(down_in) : down_in;
    const int64_t experts = down.size(0), hidden = down.size(1), width = down.size(2), k = selected.size(1);
    const Sorted sorted = sort_by_expert(selected, experts, x.scalar_type());
    const int64_t rows = sorted.rows();
    const Tensor scale = sorted_weights(weights, sorted);
    const Tensor z = at::empty({rows, 2 * width}, x.options());
    const Tensor y = at::empty({rows, hidden}, x.options());
    if (bf16) run_experts<at::BFloat16>(x, gate_up, down, sorted, scale, k, z, y);
    else run_experts<float>(x, gate_up, down, sorted, scale, k, z, y);
    ctx->save_for_backward({gate_up_in.requires_grad() ? x : Tensor(), weights, selected, z, gate_up, down});
    return bf16 ? add_rows_back<at::BFloat16>(base, y, sorted, k) : add_rows_back<float>(base, y, sorted, k);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    // x, z, gate_up and down are of the type in which they were multiplied.
    const Tensor &x = saved[0], &weights = saved[1], &selected = saved[2], &z = saved[3], &gate_up = saved[4], &down = saved[5];
    const bool bf16 = z.scalar_type() == at::kBFloat16, want_x = ctx->needs_input_grad(0);
    const Tensor dy = bf16 ? to_bf16(grads[0]) : grads[0].contiguous();
    const int64_t experts = down.size(0), hidden = down.size(1), k = selected.size(1);
    const Sorted sorted = sort_by_expert(selected, experts, z.scalar_type());
    const Tensor scale = sorted_weights(weights, sorted);
    ExpertGradients g{x, dy, gate_up, down, z, scale, {}, {}, at::empty_like(scale), {}, ctx->needs_input_grad(2)};
    const auto f32 = at::TensorOptions().dtype(at::kFloat);
    if (ctx->needs_input_grad(4)) g.dgate_up = at::empty(gate_up.sizes(), f32);
    if (ctx->needs_input_grad(5)) g.ddown = at::empty(down.sizes(), f32);
    if (want_x) g.dx_rows = at::empty({sorted.rows(), hidden}, z.options());
    if (bf16) run_experts_backward<at::BFloat16>(g, sorted, k);
    else run_experts_backward<float>(g, sorted, k);
    Tensor dx, dweights;
    if (want_x) {
      dx = bf16 ? add_rows_back<at::BFloat16>({}, g.dx_rows, sorted, k) : add_rows_back<float>({}, g.dx_rows, sorted, k);
      if (bf16) dx = to_bf16(dx);
    }
    if (g.want_weights) {
      dweights = at::empty(weights.sizes(), weights.options());
      const float* from = g.dscale.const_data_ptr<float>();
      float* to = dweights.data_ptr<float>();
      for (size_t p = 0; p < sorted.row_of.size(); ++p) to[p] = from[sorted.row_of[p]];
    }
    return {dx, ctx->needs_input_grad(1) ? grads[0] : Tensor(), dweights, Tensor(), g.dgate_up, g.ddown};
  }
};

/// The sigmoids of a row's chosen experts, and their sum.
float chosen_scores(const float* z, const int32_t* id, int64_t k, float* scores) {
  for (int64_t j = 0; j < k; ++j) scores[j] = z[id[j]];
  kernels::sigmoid(scores, scores, k);
  return std::accumulate(scores, scores + k, 1e-20f);
}

class ExpertWeights : public torch::autograd::Function<ExpertWeights> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& z, const Tensor& selected, bool normalised, double factor) {
    ctx->save_for_backward({z, selected});
    ctx->saved_data["normalised"] = normalised;
    ctx->saved_data["factor"] = factor;
    const int64_t tokens = selected.size(0), k = selected.size(1), experts = z.size(1);
    const Tensor weights = at::empty({tokens, k}, z.options());
    const float* in = z.const_data_ptr<float>();
    const int32_t* id = selected.const_data_ptr<int32_t>();
    float* out = weights.data_ptr<float>();
    for (int64_t t = 0; t < tokens; ++t, in += experts, id += k, out += k) {
      const float sum = chosen_scores(in, id, k, out);
      for (int64_t j = 0; j < k; ++j) out[j] = (normalised ? out[j] / sum : out[j]) * float(factor);
    }
    return weights;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &selected = saved[1];
    const bool normalised = ctx->saved_data["normalised"].toBool();
    const auto factor = float(ctx->saved_data["factor"].toDouble());
    const int64_t tokens = selected.size(0), k = selected.size(1), experts = z.size(1);
    const Tensor dz = at::zeros_like(z), dweights = grads[0].contiguous();
    const float *in = z.const_data_ptr<float>(), *g = dweights.const_data_ptr<float>();
    const int32_t* id = selected.const_data_ptr<int32_t>();
    float* out = dz.data_ptr<float>();
    std::vector<float> s(static_cast<size_t>(k));
    for (int64_t t = 0; t < tokens; ++t, in += experts, id += k, g += k, out += experts) {
      const float sum = chosen_scores(in, id, k, s.data());
      float mean = 0;  // of the gradients, by the shares of the experts
      for (int64_t j = 0; normalised && j < k; ++j) mean += g[j] * (s[size_t(j)] / sum);
      for (int64_t j = 0; j < k; ++j) {
        const float score = s[size_t(j)], dscore = factor * (normalised ? (g[j] - mean) / sum : g[j]);
        out[id[j]] = dscore * score * (1.0f - score);
      }
    }
    return {dz, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor select_experts(const Tensor& scores, const Tensor& bias, int64_t k) {
  const int64_t tokens = scores.size(0), experts = scores.size(1);
  const Tensor selected = at::empty({tokens, k}, scores.options().dtype(at::kInt));
  const float* score = scores.const_data_ptr<float>();
  const float* shift = bias.const_data_ptr<float>();
  int32_t* out = selected.data_ptr<int32_t>();
  at::parallel_for(0, tokens, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> choice(static_cast<size_t>(experts));
    std::vector<int32_t> ids(static_cast<size_t>(experts));
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < experts; ++e) {
        const float c = score[t * experts + e] + shift[e];
        choice[size_t(e)] = std::isnan(c) ? -std::numeric_limits<float>::infinity() : c;
      }
      std::iota(ids.begin(), ids.end(), 0);
      if (k < experts)
        std::nth_element(ids.begin(), ids.begin() + k, ids.end(), [&](int32_t a, int32_t b) {
          return choice[size_t(a)] != choice[size_t(b)] ? choice[size_t(a)] > choice[size_t(b)] : a < b;
        });
      std::sort(ids.begin(), ids.begin() + k);
      std::copy_n(ids.begin(), k, out + t * k);
    }
  });
  return selected;
}

Tensor router_scores(const Tensor& z) {
  const Tensor in = z.detach().contiguous(), out = at::empty_like(in);
  kernels::sigmoid(in.const_data_ptr<float>(), out.data_ptr<float>(), in.numel());
  return out;
}

Tensor expert_weights(const Tensor& z, const Tensor& selected, const ModelConfig& config) {
  return ExpertWeights::apply(z.contiguous(), selected, config.norm_topk_prob, config.routed_scaling_factor);
}

Tensor expert_load(const Tensor& selected, int64_t experts) {
  const Tensor load = at::zeros({experts}, selected.options().dtype(at::kLong));
  int64_t* count = load.data_ptr<int64_t>();
  const int32_t* id = selected.const_data_ptr<int32_t>();
  for (int64_t p = 0; p < selected.numel(); ++p) ++count[id[p]];
  return load;
}

Tensor expert_mixture(const Tensor& x, const Tensor& base, const Routing& routing, const Tensor& expert_gate_up,
                      const Tensor& expert_down) {
  return ExpertMixture::apply(x, base, routing.weights, routing.selected, expert_gate_up, expert_down);
}

}  // namespace overproof::ops::cpu
