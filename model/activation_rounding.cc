#include "model/activation_rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "formats/canonical_tensors.h"
#include "formats/model_config.h"
#include "formats/quantization_config.h"

namespace overproof {
namespace {

/// Finds each module's rounding in config.json and, for static scales, among the tensors.
class Reader {
 public:
  Reader(const fs::path& file, const Json& config, const TensorSource& tensors)
      : file_(file), config_(file, config.at("quantization_config")), tensors_(tensors) {}
  bool rounds() const {
    return std::ranges::any_of(config_.groups(), [](const QuantGroup& g) { return g.input_activations.has_value(); });
  }

  std::optional<ActivationRounding> of(const std::string& module) const {
    const QuantGroup* group = config_.group_for(module);
    if (!group || !group->input_activations) return std::nullopt;
    const QuantArgs& a = *group->input_activations;
    ActivationRounding r;
    if (a.bits != 8) refuse(module, fmt::format("{} bits; only 8 can be computed", a.bits));
    r.type = a.type == QuantType::floating ? ActivationRounding::Type::fp8 : ActivationRounding::Type::int8;
    r.symmetric = a.symmetric;
    r.power_of_two = a.power_of_two_scale;
    if ((!r.symmetric || r.power_of_two) &&
        r.type != (r.power_of_two ? ActivationRounding::Type::fp8 : ActivationRounding::Type::int8))
      refuse(module, "fp8 with a zero point, or int8 with scales of powers of two");
    if (!a.dynamic) {
      if (a.strategy != QuantStrategy::tensor)
        refuse(module, fmt::format("static scales with strategy {}", quant_strategy_name(a.strategy)));
      return with_static_scale(r, module);
    }
    if (a.strategy == QuantStrategy::group) r.group = a.group_size;
    else if (a.strategy != QuantStrategy::token)
      refuse(module,
             fmt::format("dynamic scales with strategy {}; token and group can be computed", quant_strategy_name(a.strategy)));
    return r;
  }

 private:
  [[noreturn]] void refuse(const std::string& module, const std::string& cause) const {
    throw FormatError(file_, -1, fmt::format("quantization_config: inputs of '{}': {}", module, cause));
  }

  ActivationRounding with_static_scale(ActivationRounding r, const std::string& module) const {
    r.is_static = true;
    const auto scalar = [&](const std::string& name) {
      if (tensors_.find(name)->elements() != 1) refuse(module, fmt::format("'{}' is not a tensor of one element", name));
      return tensors_.read_all_f32(name)[0];
    };
    const auto suffix =
        std::ranges::find_if(kInputScaleSuffixes, [&](std::string_view s) { return tensors_.find(module + std::string(s)); });
    if (suffix == std::end(kInputScaleSuffixes)) refuse(module, "the scale is static, and there is no input_scale");
    r.scale = scalar(module + std::string(*suffix));
    if (!(r.scale > 0.0f) || std::isinf(r.scale)) refuse(module, fmt::format("input_scale is {}", r.scale));
    const std::string zero_point = module + std::string(kInputZeroPointSuffix);
    if (tensors_.find(zero_point)) r.zero_point = scalar(zero_point);
    if (!(r.zero_point >= -128.0f && r.zero_point <= 127.0f)) refuse(module, fmt::format("input_zero_point is {}", r.zero_point));
    return r;
  }

  fs::path file_;
  QuantizationConfig config_;
  const TensorSource& tensors_;
};

}  // namespace

std::vector<std::shared_ptr<const LayerRounding>> activation_rounding(const Json& config, const ModelConfig& shape,
                                                                      const TensorSource& tensors, const fs::path& file) {
  std::vector<std::shared_ptr<const LayerRounding>> layers{size_t(shape.layers)};
  if (!has_quantization_config(config)) return layers;
  const Reader reader(file, config, tensors);
  if (!reader.rounds()) return layers;
  if (shape.is_latent()) throw FormatError(file, -1, "quantization_config rounds activations, which is not computed for latent attention");
  for (int64_t l = 0; l < shape.layers; ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    const auto of = [&](const std::string& canonical) -> std::optional<ActivationRounding> {
      const std::string module = stored_module(shape, canonical);
      return module.empty() ? std::nullopt : reader.of(layer + module);
    };
    const auto ffn = [&](const std::string& at) { return FfnRounding{of(at + "gate_proj"), of(at + "up_proj"), of(at + "down_proj")}; };
    const bool moe = shape.shape_of(l).experts;
    LayerRounding r;
    r.q = of("self_attn.q_proj");
    r.k = of("self_attn.k_proj");
    r.v = of("self_attn.v_proj");
    r.o = of("self_attn.o_proj");
    if (!moe) r.dense = ffn("mlp.");
    else if (shape.n_shared_experts > 0) r.dense = ffn(std::string(shared_experts_module(shape.shared_gate)));
    for (int64_t e = 0; moe && e < shape.n_routed_experts; ++e) r.experts.push_back(ffn(fmt::format("mlp.experts.{}.", e)));
    const bool any = r.q || r.k || r.v || r.o || r.dense.any() || std::ranges::any_of(r.experts, &FfnRounding::any);
    if (any) layers[size_t(l)] = std::make_shared<const LayerRounding>(std::move(r));
  }
  return layers;
}

}  // namespace overproof
