#include "quantize/scheme.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "quantize/schemes.h"

namespace overproof {
namespace {

struct Entry {
  const char* name;
  SchemeMaker make;
  const char* no_clipping;      ///< why there is none to choose; null when there is
  bool per_tensor, asymmetric;  ///< which of these options it has
};
constexpr char kPeersBytes[] = "its bytes are those of llama.cpp's quantiser, use clipping 'absmax'";
constexpr char kPowersOfTwo[] = "a scale that is a power of two has nothing between to choose; use clipping 'absmax'";
constexpr Entry kSchemes[] = {
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
  for (const Entry& entry : kSchemes) {
    if (name != entry.name) continue;
    const auto refuse = [&](std::string_view option, std::string_view remedy) {
      throw UsageError(fmt::format("scheme '{}' has no {}; {}", name, option, remedy));
    };
    if (options.clipping == Clipping::mse && entry.no_clipping != nullptr) refuse("clipping 'mse'", entry.no_clipping);
    if (options.per_tensor && !entry.per_tensor) refuse("per-tensor scale", "use scheme 'fp8' for one scale a weight");
    if (options.per_tensor && options.clipping == Clipping::mse)
      refuse("clipping 'mse' with a per-tensor scale", "one row at a time cannot tell what clipping the whole weight costs");
    if (options.asymmetric && !entry.asymmetric) refuse("asymmetric activations", "use scheme 'w8a8' or 'w8a8-static'");
    return entry.make(options);
  }
  throw UsageError(fmt::format("unknown scheme '{}'; there are: {}", name, fmt::join(scheme_names(), ", ")));
}

std::vector<std::string> scheme_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kSchemes) names.emplace_back(entry.name);
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

Json linear_group(std::string_view format, Json weights, Json activations) {
  return {{"targets", {"Linear"}},
          {"format", format},
          {"weights", std::move(weights)},
          {"input_activations", std::move(activations)},
          {"output_activations", nullptr}};
}

std::string beside(const TensorInfo& weight, std::string_view part) {
  const std::string_view suffix = ".weight", name = weight.name;
  return fmt::format("{}.{}", name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name, part);
}

}  // namespace overproof
