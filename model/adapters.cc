#include "model/adapters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "model/host_values.h"
#include "model/ops/linear.h"

namespace overproof {
namespace {

using at::Tensor;

/// Calls body(target, module, weight, adapter) for what can have an adapter in a layer.
template <class Body>
void each_target(const LayerWeights& w, LayerAdapters& adapters, int64_t layer, const Body& body) {
  const std::string at = fmt::format("model.layers.{}.", layer), ffn = at + "mlp.";
  const auto half = [&](int64_t which) { return w.gate_up.narrow(0, which * w.gate_up.size(0) / 2, w.gate_up.size(0) / 2); };
  body("q", at + "self_attn.q_proj", w.q, adapters.q);
  body("k", at + "self_attn.k_proj", w.k, adapters.k);
  body("v", at + "self_attn.v_proj", w.v, adapters.v);
  body("o", at + "self_attn.o_proj", w.o, adapters.o);
  if (w.router.defined()) return;
  body("gate", ffn + "gate_proj", half(0), adapters.gate);
  body("up", ffn + "up_proj", half(1), adapters.up);
  body("down", ffn + "down_proj", w.down, adapters.down);
}

}  // namespace

Tensor adapted(const Tensor& y, const Tensor& x, const Adapter& adapter) {
  if (!adapter.a.defined()) return y;
  return at::add(y, ops::linear(ops::linear(x, adapter.a), adapter.b), adapter.scale);
}

void add_adapters(Decoder& decoder, const LoraShape& shape) {
  OVERPROOF_CHECK(shape.rank > 0);
  at::NoGradGuard no_grad;
  std::vector<std::shared_ptr<LayerAdapters>> all;
  int64_t made = 0;
  for (size_t l = 0; l < decoder.layers().size(); ++l) {
    const LayerWeights& w = decoder.layers()[l];
    if (w.rounding)
      throw MismatchError(
          "this checkpoint rounds its activations to 8 bits (quantization_config): it can be run, not trained; train its parent");
    all.push_back(std::make_shared<LayerAdapters>());
    uint64_t number = 0;
    each_target(w, *all.back(), int64_t(l), [&](const std::string& target, const std::string&, const Tensor& weight, Adapter& adapter) {
      Rng rng(0, "distill/lora", l * kLoraTargets.size() + number++);
      if (std::ranges::find(shape.targets, target) == shape.targets.end()) return;
      adapter = {at::empty({shape.rank, weight.size(1)}, Placement{}.options()), at::zeros({weight.size(0), shape.rank}, Placement{}.options()),
                 shape.alpha / double(shape.rank)};
      const double bound = 1 / std::sqrt(double(weight.size(1)));
      for (float& value : mutable_host_values<float>(adapter.a)) value = float(bound * (2 * rng.uniform() - 1));
      ++made;
    });
  }
  if (made == 0) throw UsageError(fmt::format("option 'lora-targets': this model has no {}", fmt::join(shape.targets, ", ")));
  decoder.set_adapters(std::move(all));
}

std::vector<AdapterPlace> adapter_places(const Decoder& decoder) {
  std::vector<AdapterPlace> places;
  for (size_t l = 0; l < decoder.layers().size(); ++l)
    if (const auto& adapters = decoder.layers()[l].adapters)
      each_target(decoder.layers()[l], *adapters, int64_t(l), [&](const char*, const std::string& module, const Tensor& weight, Adapter& adapter) {
        if (adapter.a.defined()) places.push_back({module, adapter, weight.detach()});
      });
  return places;
}

void merge_adapter(const AdapterPlace& place) {
  at::NoGradGuard no_grad;
  Tensor weight = place.weight;
  weight.addmm_(place.adapter.b, place.adapter.a, 1, place.adapter.scale);
}

}  // namespace overproof
