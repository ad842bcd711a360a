// Which form of an operator runs where (linear.h), and what is composed of operators alone.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "model/ops/attention.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/head_loss.h"
#include "model/ops/layer_norm.h"
#include "model/ops/linear.h"
#include "model/ops/optional_tensor.h"
#include "model/ops/products.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rotary.h"
#include "model/ops/row_products.h"
#include "model/ops/swiglu.h"
#include "model/placement.h"

namespace overproof::ops {
namespace {

using at::Tensor;

/// `on_cpu(arguments)` where the tensor that decides is f32 on the CPU, else `elsewhere(arguments)`.
template <class Operator, class... Arguments>
decltype(auto) dispatch(const Tensor& decides, Operator& on_cpu, Operator& elsewhere, Arguments&&... arguments) {
  return has_cpu_kernels(placement_of(decides)) ? on_cpu(std::forward<Arguments>(arguments)...)
                                                : elsewhere(std::forward<Arguments>(arguments)...);
}

/// Activations alone do not show whether they belong to a model of 16 bits or are operands of products in bf16 (products.h).
template <class Operator, class... Arguments>
decltype(auto) dispatch_activation(const Tensor& x, Operator& on_cpu, Operator& elsewhere, Arguments&&... arguments) {
  const bool operand = x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && product_type() == ProductType::bf16;
  return operand || has_cpu_kernels(placement_of(x)) ? on_cpu(x, std::forward<Arguments>(arguments)...)
                                                     : elsewhere(x, std::forward<Arguments>(arguments)...);
}

/// `scores` with minus infinity outside of the best groups of each row; groups are compared with the selection's bias.
Tensor in_best_groups(const Tensor& scores, const Tensor& bias, const ModelConfig& config) {
  const int64_t rows = scores.size(0), groups = config.expert_groups;
  const Tensor grouped = (scores + bias).view({rows, groups, -1});
  const Tensor worth = config.group_score == GroupScore::best ? std::get<0>(grouped.max(2)) : std::get<0>(grouped.topk(2, 2)).sum(2);
  const Tensor best = std::get<1>(at::sort(worth, /*stable=*/true, 1, /*descending=*/true)).narrow(1, 0, config.used_groups);
  const Tensor outside = at::ones({rows, groups}, scores.options().dtype(at::kBool)).scatter(1, best, false);
  return scores.masked_fill(outside.unsqueeze(2).expand_as(grouped).reshape(scores.sizes()), -std::numeric_limits<double>::infinity());
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  return dispatch(weight, cpu::linear, aten::linear, x, weight, bias, residual);
}

void row_products(std::span<const RowProduct> products) {
  if (!products.empty()) dispatch(products[0].x, cpu::row_products, aten::row_products, products);
}

Tensor row_linear(const Tensor& x, const RowMatrix& weight, const Tensor& bias, const Tensor& residual) {
  const Tensor out = at::empty({x.size(0), weight.rows()}, x.options());
  const RowProduct product{x.contiguous(), &weight, out, x.size(0)};
  ops::row_products({&product, 1});
  if (bias.defined()) out.add_(bias);
  if (residual.defined()) out.add_(residual);
  return out;
}

void store_positions(const Tensor& rows, const std::vector<Tensor>& caches, std::span<const int64_t> lengths) {
  dispatch(rows, cpu::store_positions, aten::store_positions, rows, caches, lengths);
}

Tensor row_attention(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                     std::span<const int64_t> lengths, std::span<const int64_t> begins, double cap) {
  return dispatch(q, cpu::row_attention, aten::row_attention, q, keys, values, lengths, begins, cap);
}

void add_weighted_rows(const Tensor& out, const Tensor& rows, const Tensor& weights, std::span<const int64_t> to) {
  dispatch(out, cpu::add_weighted_rows, aten::add_weighted_rows, out, rows, weights, to);
}

void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  dispatch(out, cpu::matmul_into, aten::matmul_into, out, a, b, accumulate);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::optional<at::ScalarType> out) {
  return dispatch(weight, cpu::rms_norm, aten::rms_norm, x, weight, eps, out);
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, std::optional<at::ScalarType> out) {
  return at::layer_norm(x.to(weight.defined() ? weight.scalar_type() : x.scalar_type()), {x.size(-1)}, if_defined(weight), if_defined(bias), eps)
      .to(out.value_or(x.scalar_type()));
}

RotaryAngles rotary_angles(const Tensor& inverse_frequencies, int64_t first, int64_t length) {
  const Tensor positions = at::arange(first, first + length, inverse_frequencies.options());
  const Tensor a = positions.unsqueeze(1) * inverse_frequencies.unsqueeze(0);
  return {a.cos(), a.sin()};
}

Tensor rotate_positions(const Tensor& x, const RotaryAngles& angles) {
  return dispatch_activation(x, cpu::rotate_positions, aten::rotate_positions, angles);
}

Tensor swiglu(const Tensor& gate_up) { return dispatch_activation(gate_up, cpu::swiglu, aten::swiglu); }

Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  return dispatch(gate_up, cpu::feed_forward, aten::feed_forward, x, gate_up, down, residual);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double cap) {
  return dispatch_activation(q, cpu::attention, aten::attention, k, v, mask, cap);
}

void head_loss(const Tensor& hidden, const Tensor& head, LogitsChunks chunks, const LogitsLoss& loss, HeadGradients* gradients) {
  dispatch(hidden, cpu::head_loss, aten::head_loss, hidden, head, chunks, loss, gradients);
}

Tensor logits(const Tensor& hidden, const Tensor& head) {
  at::NoGradGuard no_grad;
  if (!has_cpu_kernels(placement_of(hidden))) return at::matmul(hidden, head.t()).to(wide_type(hidden.scalar_type()));
  const Tensor out = at::empty({hidden.size(0), head.size(0)}, hidden.options());
  if (operand_type(hidden) == hidden.scalar_type()) cpu::matmul_into(out, hidden, head.t(), false);
  else cpu::matmul_bf16_into(out, hidden, head.t());
  return out;
}

LogitsChunks logits_chunks(int64_t vocab_size) {
  constexpr int64_t kProduct = int64_t{16} << 20, kLoss = int64_t{1} << 19;  // elements
  const int64_t vocab = std::max<int64_t>(vocab_size, 1), product = std::clamp<int64_t>(kProduct / vocab, 16, 1024);
  return {product, std::min(product, std::max<int64_t>(kLoss / vocab, 8))};
}

Routing route(const Tensor& x, const Tensor& router, const Tensor& bias, int64_t k, const ModelConfig& config) {
  OVERPROOF_CHECK(k >= 1 && k <= router.size(0));
  return route_scores(ops::linear(x.to(router.scalar_type()), router), bias, k, config);
}

Routing route_scores(const Tensor& z, const Tensor& bias, int64_t k, const ModelConfig& config) {
  const bool softmax = config.expert_scores == ExpertScores::softmax;
  Routing routing;
  routing.scores = z.detach();
  routing.recorded_scores = z;
  const Tensor scores = softmax ? at::softmax(z, 1) : Tensor();
  const Tensor choice = softmax ? scores.detach() : ops::router_scores(routing.scores);
  const Tensor shift = bias.defined() ? bias : at::zeros({z.size(1)}, choice.options());
  routing.selected = ops::select_experts(config.expert_groups > 1 ? in_best_groups(choice, shift, config) : choice, shift, k);
  if (!softmax) {
    routing.weights = ops::expert_weights(z, routing.selected, config);
    return routing;
  }
  const Tensor weights = scores.gather(1, routing.selected.to(at::kLong));
  routing.weights = (config.norm_topk_prob ? weights / weights.sum(1, true) : weights) * config.routed_scaling_factor;
  return routing;
}

Tensor router_scores(const Tensor& z) { return dispatch(z, cpu::router_scores, aten::router_scores, z); }

Tensor expert_weights(const Tensor& z, const Tensor& selected, const ModelConfig& config) {
  return dispatch(z, cpu::expert_weights, aten::expert_weights, z, selected, config);
}

Tensor select_experts(const Tensor& scores, const Tensor& bias, int64_t k) {
  return dispatch(scores, cpu::select_experts, aten::select_experts, scores, bias, k);
}

Tensor expert_load(const Tensor& selected, int64_t experts) {
  return selected.device().is_cpu() ? cpu::expert_load(selected, experts) : aten::expert_load(selected, experts);
}

Tensor pairs_of_expert(const Tensor& selected, int64_t expert) { return selected.reshape({-1}).eq(expert).nonzero().squeeze(1); }

Tensor expert_mixture(const Tensor& x, const Tensor& base, const Routing& routing, const Tensor& expert_gate_up,
                      const Tensor& expert_down) {
  return dispatch(expert_gate_up, cpu::expert_mixture, aten::expert_mixture, x, base, routing, expert_gate_up, expert_down);
}

}  // namespace overproof::ops
