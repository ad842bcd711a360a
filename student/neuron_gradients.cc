#include "student/neuron_gradients.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "model/host_values.h"

namespace overproof {
namespace {

constexpr int64_t kGradientLogitRows = 128;  // rows of logits in memory at a time

/// The positions whose next token is in the same window and segment, and that token.
struct NextTokens {
  std::vector<int64_t> rows, targets;
};

NextTokens next_tokens(const SampledWindows& windows) {
  const int64_t length = windows.ids.size(1);
  const at::Tensor ids = windows.ids.contiguous(),
                   segments = windows.segments.defined() ? windows.segments.contiguous() : at::zeros(ids.sizes(), at::kInt);
  const std::span<const int64_t> id = host_values<int64_t>(ids);
  const std::span<const int32_t> segment = host_values<int32_t>(segments);
  NextTokens next;
  for (size_t i = 0; i + 1 < id.size(); ++i) {
    if (int64_t(i + 1) % length == 0 || segment[i] != segment[i + 1]) continue;
    next.rows.push_back(int64_t(i));
    next.targets.push_back(id[i + 1]);
  }
  return next;
}

/// dL / d(stream after the last layer), [tokens, hidden].
at::Tensor last_gradient(const LayerStream& model, const SampledWindows& windows, const at::Tensor& stream) {
  const NextTokens next = next_tokens(windows);
  if (next.rows.empty()) throw MismatchError("the windows have no token whose next token is in the same document: there is no loss to differentiate");
  const at::Tensor head = model.head(), gradient = at::zeros_like(stream), all_rows = at::tensor(next.rows), all_targets = at::tensor(next.targets);
  const int64_t count = all_rows.numel();
  for (int64_t first = 0; first < count; first += kGradientLogitRows) {
    throw_if_interrupted();
    const int64_t n = std::min(kGradientLogitRows, count - first);
    const at::Tensor rows = all_rows.narrow(0, first, n), x = stream.index_select(0, rows).requires_grad_(true);
    {
      at::AutoGradMode with_gradient(true);
      const at::Tensor logits = at::matmul(model.ends().last_norm(x), head.t());
      (at::cross_entropy_loss(logits, all_targets.narrow(0, first, n), {}, at::Reduction::Sum) / double(count)).backward();
    }
    gradient.index_copy_(0, rows, x.grad());
  }
  return gradient;
}

}  // namespace

std::vector<std::vector<float>> neuron_gradients(LayerStream& model, const SampledWindows& windows, int64_t batch_size,
                                                 const std::function<at::Tensor(int64_t layer)>& input, Progress& progress) {
  const int64_t layers = model.config().layers, length = windows.ids.size(1), rows = batch_size * length;
  OVERPROOF_CHECK(!model.config().is_moe() && !model.rounds());
  const at::Tensor gradient = last_gradient(model, windows, input(layers));
  const int64_t tokens = gradient.size(0);
  std::vector<std::vector<float>> scores{size_t(layers)};
  for (int64_t l = layers - 1; l >= 0; --l) {
    const Decoder& decoder = model.at(l);
    const LayerWeights& w = decoder.layers()[size_t(l)];
    w.gate_up.requires_grad_(true);
    w.down.requires_grad_(true);
    const at::Tensor stream = input(l);
    for (int64_t first = 0; first < tokens; first += rows) {
      throw_if_interrupted();
      const int64_t n = std::min(rows, tokens - first);
      const at::Tensor x = stream.narrow(0, first, n).clone().requires_grad_(true);
      {
        at::AutoGradMode with_gradient(true);
        const at::Tensor attended = decoder.attention_block(l, x, n / length, nullptr, windows.segments_of(first / length, n / length));
        decoder.ffn_residual(l, attended).backward(gradient.narrow(0, first, n).clone());
      }
      gradient.narrow(0, first, n).copy_(x.grad());
      progress.update(tokens * (layers - 1 - l) + first + n);
    }
    const int64_t ff = w.down.size(1);
    const at::Tensor by_row = (w.gate_up.detach() * w.gate_up.grad()).abs_().sum(1, false, at::kDouble);
    const at::Tensor sums = (by_row.narrow(0, 0, ff) + by_row.narrow(0, ff, ff) +
                             (w.down.detach() * w.down.grad()).abs_().sum(0, false, at::kDouble))
                                .to(at::kFloat);
    const std::span<const float> values = host_values<float>(sums);
    scores[size_t(l)].assign(values.begin(), values.end());
  }
  model.clear();
  return scores;
}

}  // namespace overproof
