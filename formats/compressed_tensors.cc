#include "formats/compressed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr std::string_view kPacked = ".weight_packed", kScale = ".weight_scale", kShape = ".weight_shape";

/// The value at `key`, or null when it is missing, so that a config that leaves a default out reads like one that writes null.
const Json& at_or_null(const Json& object, const char* key) {
  static const Json null;
  return object.is_object() && object.contains(key) ? object[key] : null;
}

void check_quantization_config(const fs::path& file, const Json& q) {
  const auto refuse = [&](const std::string& cause) { throw FormatError(file, -1, fmt::format("quantization_config: {}", cause)); };
  const auto expect = [&](const Json& object, const char* key, const Json& value, bool may_be_null) {
    const Json& found = at_or_null(object, key);
    if (found != value && !(may_be_null && found.is_null())) {
      refuse(fmt::format("{} is {}; only {} can be read", key, found.dump(), value.dump()));
    }
  };
  expect(q, "quant_method", "compressed-tensors", false);
  expect(q, "format", "pack-quantized", false);
  expect(q, "quantization_status", "compressed", true);
  const Json& groups = at_or_null(q, "config_groups");
  if (!groups.is_object() || groups.empty()) refuse("config_groups is missing");
  for (const auto& [name, group] : groups.items()) {
    expect(group, "format", "pack-quantized", true);
    expect(group, "input_activations", nullptr, true);
    expect(group, "output_activations", nullptr, true);
    const Json& weights = at_or_null(group, "weights");
    expect(weights, "num_bits", 8, false);
    expect(weights, "type", "int", true);
    expect(weights, "symmetric", true, true);
    expect(weights, "dynamic", false, true);
    const Json& strategy = at_or_null(weights, "strategy");
    if (strategy != "channel" && strategy != "group" && strategy != "tensor") {
      refuse(fmt::format("strategy is {}; channel, group and tensor can be read", strategy.dump()));
    }
  }
}

}  // namespace

void pack_int8_row(std::span<const int8_t> q, std::span<uint8_t> out) {
  OVERPROOF_CHECK(int64_t(out.size()) == packed_int8_row_bytes(int64_t(q.size())));
  for (size_t i = 0; i < q.size(); ++i) out[i] = uint8_t(q[i]) ^ 0x80u;  // q + 128
  std::fill(out.begin() + int64_t(q.size()), out.end(), uint8_t{0});
}

void unpack_int8_row(std::span<const uint8_t> packed, std::span<int8_t> out) {
  OVERPROOF_CHECK(int64_t(packed.size()) == packed_int8_row_bytes(int64_t(out.size())));
  for (size_t i = 0; i < out.size(); ++i) out[i] = int8_t(packed[i] ^ 0x80u);
}

void dequantize_packed_int8_row(std::span<const uint8_t> packed, std::span<const float> scales, std::span<float> out) {
  OVERPROOF_CHECK(int64_t(packed.size()) == packed_int8_row_bytes(int64_t(out.size())));
  OVERPROOF_CHECK(!scales.empty() && out.size() % scales.size() == 0);
  const size_t group = out.size() / scales.size();
  for (size_t g = 0; g < scales.size(); ++g) {
    for (size_t i = g * group; i < (g + 1) * group; ++i) out[i] = float(int8_t(packed[i] ^ 0x80u)) * scales[g];
  }
}

bool has_quantization_config(const Json& config) { return !at_or_null(config, "quantization_config").is_null(); }

CompressedTensorsCheckpoint::CompressedTensorsCheckpoint(const fs::path& folder, const Json& config) : folder_(folder), stored_(folder) {
  check_quantization_config(folder / "config.json", at_or_null(config, "quantization_config"));
  for (const TensorInfo& t : stored_.tensors()) {
    const std::string_view name = t.name;
    const auto module_of = [&](std::string_view suffix) { return std::string(name.substr(0, name.size() - suffix.size())); };
    if (name.ends_with(kPacked)) {
      add_packed(t, module_of(kPacked));
    } else if (name.ends_with(kScale) || name.ends_with(kShape)) {
      const std::string packed = fmt::format("{}{}", module_of(name.ends_with(kScale) ? kScale : kShape), kPacked);
      if (!stored_.find(packed)) throw FormatError(folder, -1, fmt::format("has '{}' without '{}'", name, packed));
    } else {
      if (!table_.add(t)) throw FormatError(folder, -1, fmt::format("has '{}' both packed and plain", name));
      packed_.push_back(nullptr);
    }
  }
}

void CompressedTensorsCheckpoint::add_packed(const TensorInfo& packed, const std::string& module) {
  const auto refuse = [&](const std::string& cause) { throw FormatError(folder_, -1, fmt::format("'{}': {}", module, cause)); };
  const std::string scale_name = module + std::string(kScale), shape_name = module + std::string(kShape);
  const TensorInfo *scale = stored_.find(scale_name), *shape = stored_.find(shape_name);
  if (!scale || !shape) refuse("weight_packed needs weight_scale and weight_shape beside it");
  if (stored_.find(module + ".weight_zero_point") || stored_.find(module + ".weight_g_idx")) {
    refuse("zero points and activation order are not supported");
  }
  if (packed.dtype != DType::i32 || packed.shape.size() != 2) refuse("weight_packed is not a matrix of I32");
  if (shape->dtype != DType::i64 || shape->shape != std::vector<int64_t>{2}) refuse("weight_shape is not I64 [2]");
  int64_t dims[2];
  std::memcpy(dims, stored_.bytes(shape_name).data(), sizeof dims);
  const auto [rows, columns] = dims;
  // The packed width bounds the columns, so nothing below can overflow.
  if (rows < 1 || columns < 1 || rows != packed.shape[0] || columns > packed.shape[1] * 4 || columns <= (packed.shape[1] - 1) * 4) {
    refuse(fmt::format("weight_shape [{}, {}] does not go with weight_packed [{}, {}]", rows, columns, packed.shape[0], packed.shape[1]));
  }
  if (scale->dtype != DType::f32 && scale->dtype != DType::f16 && scale->dtype != DType::bf16) refuse("weight_scale is not F32, F16 or BF16");
  auto source = std::make_unique<Packed>();
  source->name = packed.name;
  source->words = stored_.bytes(packed.name);
  source->scales = stored_.bytes(scale_name);
  source->scale_type = scale->dtype;
  const bool per_row = scale->shape.size() == 2 && scale->shape[0] == rows && scale->shape[1] > 0 && columns % scale->shape[1] == 0;
  if (per_row) source->scales_per_row = scale->shape[1];
  else if (scale->elements() != 1) refuse("weight_scale is neither [rows, groups], [rows, 1] nor [1]");
  if (!table_.add({module + ".weight", DType::f32, {rows, columns}})) refuse("is there both packed and plain");
  packed_.push_back(std::move(source));
}

void CompressedTensorsCheckpoint::decode(const Packed& source, int64_t first_row, int64_t rows, std::span<const uint8_t> words,
                                         std::span<float> out) const {
  if (rows == 0) return;
  const int64_t columns = int64_t(out.size()) / rows, row_bytes = packed_int8_row_bytes(columns);
  std::vector<float> scales(size_t(std::max(source.scales_per_row, int64_t{1})));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t scale_at = (first_row + r) * source.scales_per_row * dtype_bytes(source.scale_type);
    elements_to_f32(source.scale_type, source.scales.data() + scale_at, scales);
    dequantize_packed_int8_row(words.subspan(size_t(r * row_bytes), size_t(row_bytes)), scales, out.subspan(size_t(r * columns), size_t(columns)));
  }
}

void CompressedTensorsCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const Packed* source = packed_[i].get();
  if (!source) return stored_.read_f32(name, first_row, rows, out);
  const int64_t row_bytes = packed_int8_row_bytes(table_.list()[i].shape[1]);
  decode(*source, first_row, rows, source->words.subspan(size_t(first_row * row_bytes), size_t(rows * row_bytes)), out);
}

std::optional<RowExtent> CompressedTensorsCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const Packed* source = packed_[size_t(t - table_.list().data())].get();
  return stored_.extent(source ? source->name : name);
}

void CompressedTensorsCheckpoint::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                                              std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const Packed* source = packed_[i].get();
  if (!source) return stored_.decode_rows(name, first_row, rows, stored, out);
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * packed_int8_row_bytes(table_.list()[i].shape[1]));
  decode(*source, first_row, rows, stored, out);
}

}  // namespace overproof
