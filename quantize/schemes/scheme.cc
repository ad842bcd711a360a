#include "quantize/schemes/scheme.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "quantize/schemes/schemes.h"

namespace overproof {
namespace {

struct NamedScheme {
  const char* name;
  SchemeMaker make;
  const char* no_clipping;      ///< why clipping 'mse' is refused; null when it is supported
  bool per_tensor, asymmetric;  ///< whether the scheme has these options
};
constexpr char kPeersBytes[] = "its bytes equal those of llama.cpp's quantizer; use clipping 'absmax'";
constexpr char kPowersOfTwo[] = "its scales are powers of two, too coarse for clipping candidates; use clipping 'absmax'";
constexpr NamedScheme kSchemes[] = {
    {"int8", make_int8, nullptr, false, false},
    {"int8-g128", make_int8_g128, nullptr, false, false},
    {"w8a8", make_w8a8, nullptr, false, true},
    {"w8a8-static", make_w8a8_static, nullptr, false, true},
    {"fp8", make_fp8, nullptr, true, false},
    {"fp8-block", make_fp8_block, nullptr, false, false},
    {"fp8-native", make_fp8_native, nullptr, false, false},
    {"mxfp8", make_mxfp8, kPowersOfTwo, false, false},
    {"q8_0", make_q8_0, kPeersBytes, false, false},
};

}  // namespace

RowsResult RowQuantizer::quantize_bf16(int64_t first_row, int64_t rows, std::span<const uint16_t> x, std::span<uint8_t> bytes,
                                       std::span<float> scales) const {
  thread_local std::vector<float> wide;
  wide.resize(x.size());
  for (size_t i = 0; i < x.size(); ++i) wide[i] = bf16_to_f32(x[i]);
  return quantize(first_row, rows, wide, bytes, scales);
}

Json Scheme::quantization_config(const std::vector<std::string>& ignored) const {
  return {{"quant_method", "compressed-tensors"},
          {"format", format()},
          {"quantization_status", "compressed"},
          {"version", "0.19.0"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", ignored},
          {"config_groups", {{"group_0", config_group()}}}};
}

std::unique_ptr<Scheme> find_scheme(std::string_view name, const SchemeOptions& options) {
  for (const NamedScheme& entry : kSchemes) {
    if (name != entry.name) continue;
    const auto refuse = [&](std::string_view option, std::string_view remedy) {
      throw UsageError(fmt::format("scheme '{}' has no {}; {}", name, option, remedy));
    };
    if (options.clipping == Clipping::mse && entry.no_clipping != nullptr) refuse("clipping 'mse'", entry.no_clipping);
    if (options.per_tensor && !entry.per_tensor) refuse("per-tensor scale", "use scheme 'fp8' for one scale a weight");
    if (options.per_tensor && options.clipping == Clipping::mse)
      refuse("clipping 'mse' with a per-tensor scale", "clipping is searched row by row, and this scale covers the whole weight");
    if (options.asymmetric && !entry.asymmetric) refuse("asymmetric activations", "use scheme 'w8a8' or 'w8a8-static'");
    return entry.make(options);
  }
  throw UsageError(fmt::format("unknown scheme '{}'; known are {}", name, fmt::join(scheme_names(), ", ")));
}

std::vector<std::string> scheme_names() {
  std::vector<std::string> names;
  for (const NamedScheme& entry : kSchemes) names.emplace_back(entry.name);
  return names;
}

Json to_json(const QuantizationArgs& args) {
  return {{"num_bits", 8},
          {"type", args.type},
          {"strategy", args.strategy},
          {"symmetric", args.symmetric},
          {"dynamic", args.dynamic},
          {"group_size", args.group_size},
          {"block_structure", args.block_structure}};
}

Json to_json(const std::optional<ActivationRounding>& inputs) {
  if (!inputs) return nullptr;
  QuantizationArgs args{.type = inputs->type == ActivationRounding::Type::fp8 ? "float" : "int",
                        .strategy = inputs->is_static   ? "tensor"
                                    : inputs->group > 0 ? "group"
                                                        : "token",
                        .symmetric = inputs->symmetric,
                        .dynamic = !inputs->is_static};
  if (inputs->group > 0) args.group_size = inputs->group;
  Json json = to_json(args);
  if (inputs->power_of_two) json["scale_dtype"] = "torch.uint8";
  return json;
}

Json linear_group(const Scheme& scheme, Json weights) {
  return {{"targets", {"Linear"}},
          {"format", scheme.format()},
          {"weights", std::move(weights)},
          {"input_activations", to_json(scheme.input_rounding())},
          {"output_activations", nullptr}};
}

std::string sibling_name(const TensorInfo& weight, std::string_view part) {
  const std::string_view suffix = ".weight", name = weight.name;
  return fmt::format("{}.{}", name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name, part);
}

}  // namespace overproof
