#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "model/host_values.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/row_kernels_cpu.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The pairs (token, slot) sorted by expert, tokens ascending within an expert.
struct Sorted {
  std::vector<int64_t> begin;   ///< [experts + 1]: rows of expert e are [begin[e], begin[e + 1])
  std::vector<int64_t> pair;    ///< [rows]: token x k + slot of a sorted row
  std::vector<int64_t> row_of;  ///< [tokens x k]: its inverse
};

Sorted sort_by_expert(const Tensor& selected, int64_t experts) {
  const int32_t* id = selected.const_data_ptr<int32_t>();
  const int64_t pairs = selected.numel();
  Sorted s{std::vector<int64_t>(size_t(experts + 1)), std::vector<int64_t>(size_t(pairs)), std::vector<int64_t>(size_t(pairs))};
  for (int64_t p = 0; p < pairs; ++p) ++s.begin[size_t(id[p]) + 1];
  std::partial_sum(s.begin.begin(), s.begin.end(), s.begin.begin());
  std::vector<int64_t> next(s.begin.begin(), s.begin.end() - 1);
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t row = next[size_t(id[p])]++;
    s.pair[size_t(row)] = p;
    s.row_of[size_t(p)] = row;
  }
  return s;
}

/// Calls body(expert) for all experts, each on one thread, whichever is free: loads are uneven, and who computes an
/// expert does not change what is computed.
template <class Body>
void for_each_expert(int64_t experts, const Body& body) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    (void)begin, (void)end;
    for (int64_t e; (e = next.fetch_add(1)) < experts;) body(e);
  });
}

/// Rows of `x` at the tokens of sorted rows [first, first + count).
Tensor gather_rows(const Tensor& x, const Sorted& sorted, int64_t first, int64_t count, int64_t k) {
  const int64_t width = x.size(1);
  Tensor out = at::empty({count, width}, x.options());
  const float* in = x.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  for (int64_t r = 0; r < count; ++r)
    std::memcpy(to + r * width, in + sorted.pair[size_t(first + r)] / k * width, size_t(width) * sizeof(float));
  return out;
}

/// out[t] += sum over slots, ascending, of rows[row_of[t, slot]].
void add_rows_back(const Tensor& out, const Tensor& rows, const Sorted& sorted, int64_t k) {
  const int64_t width = out.size(1);
  const float* in = rows.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  at::parallel_for(0, out.size(0), 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < k; ++j) {
        const float* row = in + sorted.row_of[size_t(t * k + j)] * width;
        for (int64_t i = 0; i < width; ++i) to[t * width + i] += row[i];
      }
  });
}

/// weights [tokens, k] in the order of sorted rows.
Tensor sorted_weights(const Tensor& weights, const Sorted& sorted) {
  Tensor out = at::empty({weights.numel()}, weights.options());
  const Tensor contiguous = weights.contiguous();
  const float* in = contiguous.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  for (size_t r = 0; r < sorted.pair.size(); ++r) to[r] = in[sorted.pair[r]];
  return out;
}

class ExpertMixture : public torch::autograd::Function<ExpertMixture> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& base, const Tensor& weights, const Tensor& selected,
                        const Tensor& gate_up, const Tensor& down) {
    const int64_t experts = down.size(0), hidden = down.size(1), width = down.size(2), k = selected.size(1);
    const Sorted sorted = sort_by_expert(selected, experts);
    const int64_t rows = selected.numel();
    const Tensor scale = sorted_weights(weights, sorted);
    const Tensor z = at::empty({rows, 2 * width}, x.options());
    const Tensor y = at::empty({rows, hidden}, x.options());
    for_each_expert(experts, [&](int64_t e) {
      const int64_t first = sorted.begin[size_t(e)], count = sorted.begin[size_t(e) + 1] - first;
      if (count == 0) return;
      Tensor ze = z.narrow(0, first, count), ye = y.narrow(0, first, count);
      at::mm_out(ze, gather_rows(x, sorted, first, count, k), gate_up[e].t());
      const Tensor a = at::empty({count, width}, x.options());
      kernels::swiglu(ze.const_data_ptr<float>(), scale.const_data_ptr<float>() + first, a.data_ptr<float>(), count, width);
      at::mm_out(ye, a, down[e].t());
    });
    ctx->save_for_backward({gate_up.requires_grad() ? x : Tensor(), weights, selected, z, gate_up, down});
    Tensor out = base.clone();
    add_rows_back(out, y, sorted, k);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].contiguous();
    const Tensor &x = saved[0], &weights = saved[1], &selected = saved[2], &z = saved[3], &gate_up = saved[4], &down = saved[5];
    const bool want_x = ctx->needs_input_grad(0), want_weights = ctx->needs_input_grad(2);
    const bool want_gate_up = ctx->needs_input_grad(4), want_down = ctx->needs_input_grad(5);
    const int64_t experts = down.size(0), hidden = down.size(1), width = down.size(2), k = selected.size(1);
    const Sorted sorted = sort_by_expert(selected, experts);
    const Tensor scale = sorted_weights(weights, sorted);
    const float* scales = scale.const_data_ptr<float>();

    const Tensor dgate_up = want_gate_up ? at::empty_like(gate_up) : Tensor();
    const Tensor ddown = want_down ? at::empty_like(down) : Tensor();
    const Tensor dscale = at::empty_like(scale);
    const Tensor dx_rows = want_x ? at::empty({selected.numel(), hidden}, z.options()) : Tensor();
    for_each_expert(experts, [&](int64_t e) {
      const int64_t first = sorted.begin[size_t(e)], count = sorted.begin[size_t(e) + 1] - first;
      if (count == 0) {
        if (want_gate_up) dgate_up[e].zero_();
        if (want_down) ddown[e].zero_();
        return;
      }
      const float* ze = z.const_data_ptr<float>() + first * 2 * width;
      const Tensor dye = gather_rows(dy, sorted, first, count, k);
      Tensor a = at::empty({count, width}, z.options());
      if (want_down) {
        kernels::swiglu(ze, scales + first, a.data_ptr<float>(), count, width);
        Tensor into = ddown[e];
        at::mm_out(into, dye.t(), a);
      }
      if (!(want_x || want_weights || want_gate_up)) return;
      at::mm_out(a, dye, down[e]);  // now the gradient of the activation, before the routing weight
      const Tensor dz = at::empty({count, 2 * width}, z.options());
      kernels::swiglu_backward(ze, scales + first, a.const_data_ptr<float>(), dz.data_ptr<float>(),
                               dscale.data_ptr<float>() + first, count, width);
      if (want_gate_up) {
        Tensor into = dgate_up[e];
        at::mm_out(into, dz.t(), gather_rows(x, sorted, first, count, k));
      }
      if (want_x) {
        Tensor into = dx_rows.narrow(0, first, count);
        at::mm_out(into, dz, gate_up[e]);
      }
    });
    Tensor dx, dweights;
    if (want_x) {
      dx = at::zeros({dy.size(0), hidden}, dy.options());
      add_rows_back(dx, dx_rows, sorted, k);
    }
    if (want_weights) {
      dweights = at::empty(weights.sizes(), weights.options());
      const float* from = dscale.const_data_ptr<float>();
      float* to = dweights.data_ptr<float>();
      for (size_t r = 0; r < sorted.pair.size(); ++r) to[sorted.pair[r]] = from[r];
    }
    return {dx, ctx->needs_input_grad(1) ? dy : Tensor(), dweights, Tensor(), dgate_up, ddown};
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
