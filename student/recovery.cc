#include "student/recovery.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "model/ops/linear.h"

namespace overproof {

using at::Tensor;

FfnOutputs::FfnOutputs(const Decoder& model, int64_t layer) : model_(model), layer_(layer) {}

std::vector<Tensor> FfnOutputs::projections() const {
  const LayerWeights& w = model_.layers()[size_t(layer_)];
  std::vector<Tensor> all;
  if (w.down.defined()) all.push_back(w.down);
  if (w.expert_down.defined())
    for (const Tensor& down : w.expert_down.unbind(0)) all.push_back(down);
  return all;
}

std::vector<int64_t> FfnOutputs::widths() const {
  std::vector<int64_t> widths;
  for (const Tensor& down : projections()) widths.push_back(down.size(1));
  return widths;
}

std::string FfnOutputs::name(size_t block) const {
  if (!model_.config().is_moe()) return "ffn";
  const bool shared = model_.config().n_shared_experts > 0;
  return shared && block == 0 ? "shared" : fmt::format("expert {}", block - (shared ? 1 : 0));
}

namespace {

/// What the output of each expert is multiplied by when it is chosen, [tokens, experts]. Normalised softmax scores are divided by the sum of the
/// experts that the router chooses, also those of the others.
Tensor weights_of_all(const Decoder& model, int64_t layer, const Tensor& h) {
  const ModelConfig& c = model.config();
  const Tensor z = ops::linear(h, model.layers()[size_t(layer)].router);
  if (c.expert_scores == ExpertScores::sigmoid) return at::sigmoid(z).mul_(c.routed_scaling_factor);
  const Tensor scores = at::softmax(z, 1);
  if (!c.norm_topk_prob) return scores * c.routed_scaling_factor;
  const Tensor chosen = model.route(layer, h).selected.to(at::kLong);
  return scores * (c.routed_scaling_factor / scores.gather(1, chosen).sum(1, true));
}

}  // namespace

FfnOutputs::Pass FfnOutputs::run(const Tensor& x) const {
  const ModelConfig& c = model_.config();
  const Tensor h = model_.ffn_input(layer_, x);
  Pass pass{{}, at::zeros_like(x)};
  if (model_.layers()[size_t(layer_)].down.defined()) {
    const FfnPass dense = model_.ffn_pass(layer_, kDenseFfn, h);
    pass.out.add_(dense.out);
    const Tensor& gate = model_.layers()[size_t(layer_)].shared_gate;
    pass.blocks.push_back({gate.defined() ? dense.activation.mul(at::sigmoid(ops::linear(h, gate))) : dense.activation, {}});
  }
  if (!c.is_moe()) return pass;
  const ops::Routing routing = model_.route(layer_, h);
  const Tensor weights = routing.weights.reshape({-1});
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    const Tensor pairs = ops::pairs_of_expert(routing.selected, e), rows = pairs.div(c.top_k, "floor");
    if (rows.numel() == 0) {
      pass.blocks.push_back({at::empty({0, c.moe_intermediate_size}, x.options()), rows});
      continue;
    }
    const FfnPass expert = model_.ffn_pass(layer_, e, h.index_select(0, rows));
    const Tensor weight = weights.index_select(0, pairs).unsqueeze(1);
    pass.out.index_add_(0, rows, expert.out.mul(weight));
    pass.blocks.push_back({expert.activation.mul(weight), rows});
  }
  return pass;
}

Tensor FfnOutputs::weights() const {
  std::vector<Tensor> all;
  for (const Tensor& down : projections()) all.push_back(down.t());
  return at::cat(all);
}

void FfnOutputs::set_weights(const Tensor& weights) const {
  int64_t first = 0;
  for (const Tensor& down : projections()) {
    down.copy_(weights.narrow(0, first, down.size(1)).t());
    first += down.size(1);
  }
}

Tensor expert_gains(const Decoder& model, int64_t layer, const Tensor& x, const Tensor& target) {
  const ModelConfig& c = model.config();
  const LayerWeights& w = model.layers()[size_t(layer)];
  const Tensor h = model.ffn_input(layer, x);
  const Tensor residual = w.down.defined() ? target - model.ffn_pass(layer, kDenseFfn, h).out : target;
  const Tensor weights = weights_of_all(model, layer, h);
  Tensor gains = at::empty({x.size(0), c.n_routed_experts});
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    const Tensor out = model.ffn_pass(layer, e, h).out.mul_(weights.narrow(1, e, 1));
    gains.select(1, e).copy_((out * (2 * residual - out)).sum(1));
  }
  return gains;
}

}  // namespace overproof
