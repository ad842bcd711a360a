// Which form of an operator runs where (linear.h), and what is composed of operators alone.
#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "model/ops/attention.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/head_loss.h"
#include "model/ops/linear.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rotary.h"
#include "model/ops/swiglu.h"
#include "model/placement.h"

namespace overproof::ops {
namespace {

using at::Tensor;

/// `on_cpu(arguments)` for f32 on the CPU, else `elsewhere(arguments)`; `first` decides.
template <class Operator, class... Arguments>
decltype(auto) dispatch(Operator& on_cpu, Operator& elsewhere, const Tensor& first, Arguments&&... arguments) {
  return has_cpu_kernels(placement_of(first)) ? on_cpu(first, std::forward<Arguments>(arguments)...)
                                              : elsewhere(first, std::forward<Arguments>(arguments)...);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  return dispatch(cpu::linear, aten::linear, x, weight, bias, residual);
}

void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  dispatch(cpu::matmul_into, aten::matmul_into, out, a, b, accumulate);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return dispatch(cpu::rms_norm, aten::rms_norm, x, weight, eps);
}

RotaryAngles rotary_angles(const Tensor& inverse_frequencies, int64_t first, int64_t length) {
  const Tensor positions = at::arange(first, first + length, inverse_frequencies.options());
  const Tensor a = positions.unsqueeze(1) * inverse_frequencies.unsqueeze(0);
  return {a.cos(), a.sin()};
}

Tensor rotate_positions(const Tensor& x, const RotaryAngles& angles) {
  return dispatch(cpu::rotate_positions, aten::rotate_positions, x, angles);
}

Tensor swiglu(const Tensor& gate_up) { return dispatch(cpu::swiglu, aten::swiglu, gate_up); }

Tensor feed_forward(const Tensor& x, const Tensor& gate_up, const Tensor& down, const Tensor& residual) {
  return dispatch(cpu::feed_forward, aten::feed_forward, x, gate_up, down, residual);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v) { return dispatch(cpu::attention, aten::attention, q, k, v); }

void head_loss(const Tensor& hidden, const Tensor& head, int64_t chunk, const LogitsLoss& loss, HeadGradients* gradients) {
  dispatch(cpu::head_loss, aten::head_loss, hidden, head, chunk, loss, gradients);
}

int64_t logits_chunk_rows(int64_t vocab_size) {
  constexpr int64_t kBufferElements = int64_t{4} << 20;
  return std::clamp<int64_t>(kBufferElements / std::max<int64_t>(vocab_size, 1), 16, 1024);
}

Routing route(const Tensor& x, const Tensor& router, const Tensor& bias, int64_t k, const ModelConfig& config) {
  OVERPROOF_CHECK(k >= 1 && k <= router.size(0));
  const Tensor z = ops::linear(x.to(router.scalar_type()), router);
  Routing routing;
  routing.scores = z.detach();
  routing.selected = ops::select_experts(routing.scores.sigmoid(), bias, k);
  Tensor weights = z.gather(1, routing.selected.to(at::kLong)).sigmoid();
  if (config.norm_topk_prob) weights = weights / (weights.sum(1, true) + 1e-20);
  routing.weights = weights * config.routed_scaling_factor;
  return routing;
}

Tensor select_experts(const Tensor& scores, const Tensor& bias, int64_t k) {
  return dispatch(cpu::select_experts, aten::select_experts, scores, bias, k);
}

Tensor expert_load(const Tensor& selected, int64_t experts) {
  return selected.device().is_cpu() ? cpu::expert_load(selected, experts) : aten::expert_load(selected, experts);
}

Tensor pairs_of_expert(const Tensor& selected, int64_t expert) { return selected.reshape({-1}).eq(expert).nonzero().squeeze(1); }

Tensor expert_mixture(const Tensor& x, const Tensor& base, const Routing& routing, const Tensor& expert_gate_up,
                      const Tensor& expert_down) {
  return dispatch(cpu::expert_mixture, aten::expert_mixture, x, base, routing, expert_gate_up, expert_down);
}

}  // namespace overproof::ops
