#include "model/activation_rounding.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "model/config.h"

namespace overproof {
namespace {

/// The value at `key`, or null.
const Json& at_or_null(const Json& object, const char* key) {
  static const Json null;
  return object.is_object() && object.contains(key) ? object[key] : null;
}

/// A target of compressed-tensors: a module's name, "re:" and an expression that matches from its start, or a class.
bool matches_target(const std::string& target, const std::string& module, const std::string& where) {
  if (target == "Linear" || target == module) return true;
  if (!target.starts_with("re:")) return false;
  const std::string pattern = target.substr(3);
  int fault = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(PCRE2_SPTR(pattern.data()), pattern.size(), PCRE2_ANCHORED, &fault, &at, nullptr);
  if (!code) throw FormatError(where, -1, fmt::format("quantization_config: '{}' is no regular expression (at {})", target, at));
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  const int found = pcre2_match(code, PCRE2_SPTR(module.data()), module.size(), 0, 0, data, nullptr);  // has limits of its own
  pcre2_match_data_free(data);
  pcre2_code_free(code);
  if (found < PCRE2_ERROR_NOMATCH) throw FormatError(where, -1, fmt::format("quantization_config: '{}' takes too long to match", target));
  return found >= 0;
}

bool matches_any(const Json& targets, const std::string& module, const std::string& where) {
  if (!targets.is_array()) return false;
  return std::ranges::any_of(targets, [&](const Json& t) { return t.is_string() && matches_target(t.get<std::string>(), module, where); });
}

/// Finds each module's rounding in config.json.
class Reader {
 public:
  Reader(const Json& config, const TensorSource& tensors, const std::string& where)
      : q_(at_or_null(config, "quantization_config")), tensors_(tensors), where_(where) {
    native_fp8_ = at_or_null(q_, "quant_method") == "fp8";
    rounds_ = native_fp8_;
    for (const Json& group : at_or_null(q_, "config_groups")) rounds_ = rounds_ || !at_or_null(group, "input_activations").is_null();
  }
  bool rounds() const { return rounds_; }

  std::optional<ActivationRounding> of(const std::string& module) const {
    if (native_fp8_) return native(module);
    if (matches_any(at_or_null(q_, "ignore"), module, where_)) return std::nullopt;
    for (const Json& group : at_or_null(q_, "config_groups"))
      if (matches_any(at_or_null(group, "targets"), module, where_)) return of_arguments(at_or_null(group, "input_activations"), module);
    return std::nullopt;
  }

 private:
  [[noreturn]] void refuse(const std::string& module, const std::string& cause) const {
    throw FormatError(where_, -1, fmt::format("quantization_config: inputs of '{}': {}", module, cause));
  }

  /// DeepSeek's layout: "activation_scheme": "dynamic" rounds groups as wide as the weight's blocks.
  std::optional<ActivationRounding> native(const std::string& module) const {
    if (matches_any(at_or_null(q_, "modules_to_not_convert"), module, where_)) return std::nullopt;
    const Json& scheme = at_or_null(q_, "activation_scheme");
    ActivationRounding r;
    r.type = ActivationRounding::Type::fp8;
    if (scheme == "static") return with_static_scale(r, module);
    if (scheme != "dynamic") refuse(module, fmt::format("activation_scheme {} is not known", scheme.dump()));
    const Json& block = at_or_null(q_, "weight_block_size");
    if (block.is_array() && block.size() == 2 && block[1].is_number_integer()) r.group = positive(block[1], module);
    return r;
  }

  int64_t positive(const Json& value, const std::string& module) const {
    if (!value.is_number_integer() || value.get<int64_t>() < 1) refuse(module, fmt::format("group of {} channels", value.dump()));
    return value.get<int64_t>();
  }

  std::optional<ActivationRounding> of_arguments(const Json& a, const std::string& module) const {
    if (a.is_null()) return std::nullopt;
    ActivationRounding r;
    if (at_or_null(a, "num_bits") != 8) refuse(module, fmt::format("{} bits; only 8 can be computed", at_or_null(a, "num_bits").dump()));
    const Json &type = at_or_null(a, "type"), &dynamic = at_or_null(a, "dynamic"), &strategy = at_or_null(a, "strategy");
    if (type == "float") r.type = ActivationRounding::Type::fp8;
    else if (!type.is_null() && type != "int") refuse(module, fmt::format("type {}", type.dump()));
    r.symmetric = at_or_null(a, "symmetric") != false;
    if (!r.symmetric && r.type == ActivationRounding::Type::fp8) refuse(module, "fp8 that is not symmetric");
    if (dynamic != true) {
      if (!strategy.is_null() && strategy != "tensor") refuse(module, fmt::format("static scales with strategy {}", strategy.dump()));
      return with_static_scale(r, module);
    }
    if (strategy == "group") r.group = positive(at_or_null(a, "group_size"), module);
    else if (strategy != "token") refuse(module, fmt::format("dynamic scales with strategy {}; token and group can be computed", strategy.dump()));
    return r;
  }

  ActivationRounding with_static_scale(ActivationRounding r, const std::string& module) const {
    r.is_static = true;
    const auto scalar = [&](const std::string& name) {
      const TensorInfo* info = tensors_.find(name);
      if (!info || info->elements() != 1) refuse(module, fmt::format("'{}' is not a tensor of one element", name));
      return tensors_.read_all_f32(name)[0];
    };
    r.scale = scalar(module + ".input_scale");
    if (!(r.scale > 0.0f) || std::isinf(r.scale)) refuse(module, fmt::format("input_scale is {}", r.scale));
    if (tensors_.find(module + ".input_zero_point")) r.zero_point = scalar(module + ".input_zero_point");
    if (!(r.zero_point >= -128.0f && r.zero_point <= 127.0f)) refuse(module, fmt::format("input_zero_point is {}", r.zero_point));
    return r;
  }

  const Json& q_;
  const TensorSource& tensors_;
  std::string where_;
  bool native_fp8_ = false, rounds_ = false;
};

}  // namespace

at::Tensor rounded(const std::optional<ActivationRounding>& rounding, const at::Tensor& x) {
  if (!rounding) return x;
  const at::Tensor copy = x.detach().clone(at::MemoryFormat::Contiguous);
  const int64_t columns = copy.size(-1);
  rounding->apply(copy.data_ptr<float>(), copy.numel() / columns, columns);
  return copy;
}

std::vector<std::shared_ptr<const LayerRounding>> activation_rounding(const Json& config, const ModelConfig& shape,
                                                                      const TensorSource& tensors, const std::string& where) {
  std::vector<std::shared_ptr<const LayerRounding>> layers{size_t(shape.layers)};
  const Reader reader(config, tensors, where);
  if (!reader.rounds()) return layers;
  for (int64_t l = 0; l < shape.layers; ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    const auto ffn = [&](const std::string& at) {
      return FfnRounding{reader.of(layer + at + "gate_proj"), reader.of(layer + at + "up_proj"), reader.of(layer + at + "down_proj")};
    };
    LayerRounding r;
    r.q = reader.of(layer + "self_attn.q_proj");
    r.k = reader.of(layer + "self_attn.k_proj");
    r.v = reader.of(layer + "self_attn.v_proj");
    r.o = reader.of(layer + "self_attn.o_proj");
    if (!shape.is_moe()) r.dense = ffn("mlp.");
    else if (shape.n_shared_experts > 0) r.dense = ffn("mlp.shared_experts.");
    for (int64_t e = 0; e < shape.n_routed_experts; ++e) r.experts.push_back(ffn(fmt::format("mlp.experts.{}.", e)));
    const bool any = r.q || r.k || r.v || r.o || r.dense.any() || std::ranges::any_of(r.experts, &FfnRounding::any);
    if (any) layers[size_t(l)] = std::make_shared<const LayerRounding>(std::move(r));
  }
  return layers;
}

}  // namespace overproof
