// libtorch's fused attention for the CPU, which never has a whole [new, length] matrix of scores in memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/ops/attention.h"
#include "model/ops/free_threads.h"
#include "model/ops/gemm.h"

namespace overproof::ops::cpu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kQueries = 128;  // of which the scores exist at one time

/// body(sequence, head) for all of them.
template <class Body>
void for_each_head(int64_t batch, int64_t heads, const Body& body) {
  for_each_on_free_thread(batch * heads, [&](int64_t i) { body(i / heads, i % heads); });
}

/// The rows of one head [length, dim], contiguous f32.
Tensor head_rows(const Tensor& x, int64_t sequence, int64_t head) { return x.select(0, sequence).select(0, head).to(at::kFloat).contiguous(); }

/// The probabilities [rows, first + rows] with which queries first, first + 1, ... see the keys up to them.
Tensor probabilities(const Tensor& scaled_q, const Tensor& k, int64_t first, int64_t rows) {
  Tensor scores = at::empty({rows, first + rows}, k.options());
  gemm(scores, scaled_q.narrow(0, first, rows), k.narrow(0, 0, first + rows).t());
  static const Tensor later = at::full({kQueries, kQueries}, -std::numeric_limits<float>::infinity()).triu(1);
  scores.narrow(1, first, rows).add_(later.narrow(0, 0, rows).narrow(1, 0, rows));
  return at::softmax(scores, 1);
}

class CausalAttention : public torch::autograd::Function<CausalAttention> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
    const int64_t batch = q.size(0), heads = q.size(1), length = q.size(2), dim = q.size(3), group = heads / k.size(1);
    const Tensor out = at::empty({batch, length, heads, dim}, q.options());
    for_each_head(batch, heads, [&](int64_t s, int64_t h) {
      const Tensor qs = head_rows(q, s, h) / std::sqrt(double(dim)), kh = head_rows(k, s, h / group), vh = head_rows(v, s, h / group);
      const Tensor mixed = at::empty({length, dim}, qs.options());
      for (int64_t first = 0; first < length; first += kQueries) {
        const int64_t rows = std::min(kQueries, length - first);
        gemm(mixed.narrow(0, first, rows), probabilities(qs, kh, first, rows), vh.narrow(0, 0, first + rows));
      }
      out.select(0, s).select(1, h).copy_(mixed);
    });
    ctx->save_for_backward({q, k, v});
    return out.transpose(1, 2);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const int64_t batch = q.size(0), heads = q.size(1), length = q.size(2), dim = q.size(3), kv_heads = k.size(1), group = heads / kv_heads;
    const double scale = 1 / std::sqrt(double(dim));
    const auto f32 = at::TensorOptions().dtype(at::kFloat);
    const Tensor dq = at::empty({batch, length, heads, dim}, q.options());
    // Of every query head; heads that share keys are added afterwards, in order.
    const Tensor dk_of = at::zeros({batch, heads, length, dim}, f32), dv_of = at::zeros({batch, heads, length, dim}, f32);
    for_each_head(batch, heads, [&](int64_t s, int64_t h) {
      const Tensor qs = head_rows(q, s, h) * scale, kh = head_rows(k, s, h / group), vh = head_rows(v, s, h / group);
      const Tensor dout = head_rows(grads[0], s, h), dqh = at::empty({length, dim}, f32);
      const Tensor dk = dk_of.select(0, s).select(0, h), dv = dv_of.select(0, s).select(0, h);
      for (int64_t first = 0; first < length; first += kQueries) {
        const int64_t rows = std::min(kQueries, length - first), seen = first + rows;
        const Tensor p = probabilities(qs, kh, first, rows), dp = at::empty_like(p), dout_rows = dout.narrow(0, first, rows);
        gemm(dv.narrow(0, 0, seen), p.t(), dout_rows, true);
        gemm(dp, dout_rows, vh.narrow(0, 0, seen).t());
        const Tensor dscores = at::_softmax_backward_data(dp, p, 1, at::kFloat);
        gemm(dqh.narrow(0, first, rows), dscores, kh.narrow(0, 0, seen), false, scale);
        gemm(dk.narrow(0, 0, seen), dscores.t(), qs.narrow(0, first, rows), true);
      }
      dq.select(0, s).select(1, h).copy_(dqh);
    });
    const auto of_keys = [&](const Tensor& of_heads) {
      return of_heads.view({batch, kv_heads, group, length, dim}).sum(2).to(q.scalar_type());
    };
    return {dq.transpose(1, 2), of_keys(dk_of), of_keys(dv_of)};
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v) { return CausalAttention::apply(q, k, v); }

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& given, double cap) {
  if (cap > 0) return aten::attention(q, k, v, given, cap);
  const int64_t queries = q.size(2), past = k.size(2) - queries;
  if (f32_by_onednn() && !given.defined() && past == 0 && queries > 1) return causal_attention(q, k, v);
  // libtorch's own causal mask would put the first query at the position of the first key.
  std::optional<Tensor> mask;
  if (given.defined()) mask = given;
  else if (past > 0 && queries > 1) mask = at::ones({queries, k.size(2)}, q.options().dtype(at::kBool)).tril(past);
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, /*is_causal=*/!mask && queries > 1, std::nullopt,
                                          /*enable_gqa=*/q.size(1) != k.size(1));
}

}  // namespace overproof::ops::cpu
