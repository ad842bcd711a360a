#include "formats/quantized_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "core/float_bits.h"

namespace overproof {
namespace {

constexpr std::string_view kWeight = ".weight", kPacked = ".weight_packed", kScale = ".weight_scale",
                           kScaleInv = ".weight_scale_inv";
constexpr std::string_view kShape = ".weight_shape", kZero = ".weight_zero_point", kGroupIndex = ".weight_g_idx";
constexpr std::string_view kParts[] = {kScale, kScaleInv, kShape, kZero, kGroupIndex};
constexpr std::string_view kFormats[] = {
    "", "dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized"};

std::string joined(const std::string& module, std::string_view suffix) { return module + std::string(suffix); }
std::string module_of(std::string_view name, std::string_view suffix) {
  return std::string(name.substr(0, name.size() - suffix.size()));
}
int64_t ceil_div(int64_t a, int64_t b) { return (a - 1) / b + 1; }  // a >= 1; does not overflow

bool is_one_of(DType dtype, std::initializer_list<DType> allowed) { return std::ranges::find(allowed, dtype) != allowed.end(); }
bool is_integer(DType dtype) {
  return is_one_of(dtype, {DType::boolean, DType::u8, DType::i8, DType::u16, DType::i16, DType::u32, DType::i32, DType::u64, DType::i64});
}
bool holds_codes(DType dtype) { return dtype == DType::i8 || dtype == DType::f8_e4m3; }

/// " next to 'X.SCB'": another tool's scales of the module, for a message.
std::string next_to(const TensorSource& tensors, const std::string& module) {
  for (const TensorInfo& t : tensors.tensors())
    if (t.name.starts_with(module + ".") && t.name != module + ".weight" && t.name != module + ".bias")
      return fmt::format(" next to '{}'", t.name);
  return {};
}

/// U8 is how files without the F8_E8M0 type write it.
DType scale_values(DType stored) { return stored == DType::u8 ? DType::f8_e8m0 : stored; }

const std::array<float, 256>& f8_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> v{};
    for (int i = 0; i < 256; ++i) v[size_t(i)] = f8_e4m3_to_f32(uint8_t(i));
    return v;
  }();
  return values;
}

/// out = (value of each code - zero) x scale; without a zero point nothing is subtracted.
template <class Value>
void scale_codes(std::span<const uint8_t> codes, std::span<float> out, float scale, float zero, Value&& value) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = (value(codes[i]) - zero) * scale;
}

}  // namespace

void QuantizedCheckpoint::refuse(const std::string& module, const std::string& cause) const {
  throw FormatError(folder_, -1, fmt::format("'{}': {}", module, cause));
}

QuantizedCheckpoint::QuantizedCheckpoint(const fs::path& folder, QuantizationConfig& config) : folder_(folder), stored_(folder) {
  for (const QuantGroup& group : config.groups()) {
    if (std::ranges::find(kFormats, group.format) == std::end(kFormats)) {
      throw FormatError(folder / "config.json", -1,
                        fmt::format("quantization_config: format '{}' of {} cannot be read; {} can", group.format, group.name,
                                    fmt::join(std::begin(kFormats) + 1, std::end(kFormats), ", ")));
    }
  }
  for (const TensorInfo& t : stored_.tensors()) {
    const std::string_view name = t.name;
    if (name.ends_with(kPacked)) {
      add(module_of(name, kPacked), t, config);
    } else if (name.ends_with(kWeight) && scale_of(module_of(name, kWeight), config)) {
      add(module_of(name, kWeight), t, config);
    } else if (const auto part = std::ranges::find_if(kParts, [&](std::string_view suffix) { return name.ends_with(suffix); });
               part != std::end(kParts)) {
      const std::string module = module_of(name, *part);
      const bool packed = stored_.find(joined(module, kPacked));
      const TensorInfo* scale = stored_.find(joined(module, kWeight)) || packed ? scale_of(module, config) : nullptr;
      const bool belongs =
          packed ? *part != kScaleInv || (scale && scale->name == name) : scale && (scale->name == name || *part == kZero);
      if (belongs) continue;
      if (*part != kShape) refuse(module, fmt::format("has {} without codes that it could belong to", part->substr(1)));
      add_plain(t, config);
    } else {
      add_plain(t, config);
    }
  }
  // A tied head has no tensor, but a module.
  if (!table_.find("lm_head.weight")) config.add_plain("lm_head");
}

void QuantizedCheckpoint::add_plain(const TensorInfo& t, QuantizationConfig& config) {
  const std::string_view name = t.name;
  const std::string module = name.ends_with(kWeight) ? module_of(name, kWeight) : t.name;
  if (holds_codes(t.dtype) && t.shape.size() > 1) {
    if (stored_.find(joined(t.name, "_scale")) || stored_.find(joined(t.name, "_scale_inv"))) {
      refuse(module, "quantised experts that are stacked in one tensor cannot be read; save them one by one");
    }
    if (config.group_for(module)) refuse(module, fmt::format("weight is {}, but has no scales", dtype_name(t.dtype)));
  }
  if (name.ends_with(kWeight) && t.shape.size() > 1 && is_integer(t.dtype))
    refuse(module, fmt::format("weight is {}, but has no scales, and no group of quantization_config explains its codes", dtype_name(t.dtype)));
  if (name.ends_with(kWeight) && config.group_for(module)) config.add_plain(module);
  if (!table_.add(t)) refuse(module, "is there both packed and plain");
  weights_.push_back(nullptr);
}

const TensorInfo* QuantizedCheckpoint::scale_of(const std::string& module, const QuantizationConfig& config) const {
  const TensorInfo* scale = stored_.find(joined(module, kScale));
  const TensorInfo* inverse = config.dialect() == QuantDialect::fp8 ? stored_.find(joined(module, kScaleInv)) : nullptr;
  if (scale && inverse) refuse(module, "has both weight_scale and weight_scale_inv");
  return inverse ? inverse : scale;
}

QuantizedCheckpoint::Grid QuantizedCheckpoint::grid_for(const std::string& module, const QuantArgs& args, QuantDialect dialect,
                                                        int64_t rows, int64_t columns, const TensorInfo& scale) const {
  Grid grid;
  switch (args.strategy) {
    case QuantStrategy::tensor:
      grid = {rows, columns};
      break;
    case QuantStrategy::channel:
      grid = {1, columns};
      break;
    case QuantStrategy::group:
      grid = {1, args.group_size};
      break;
    case QuantStrategy::block:
      grid = {args.block[0], args.block[1]};
      break;
    default:
      refuse(module, fmt::format("weights cannot be quantised per {}", quant_strategy_name(args.strategy)));
  }
  grid.rows = ceil_div(rows, grid.block_rows);
  grid.columns = ceil_div(columns, grid.block_columns);
  const std::vector<int64_t>& shape = scale.shape;
  if (shape == std::vector<int64_t>{grid.rows, grid.columns}) return grid;
  if (grid.columns == 1 && shape == std::vector<int64_t>{grid.rows}) return grid;
  if (grid.rows == 1 && grid.columns == 1 && scale.elements() == 1) return grid;
  if (dialect == QuantDialect::fp8 && scale.elements() == 1) return {rows, columns, 1, 1};
  // transformers takes the block from the scales where they divide the weight: experts may have blocks of their own.
  if (dialect == QuantDialect::fp8 && shape.size() == 2 && shape[0] > 0 && shape[1] > 0 && rows % shape[0] == 0 &&
      columns % shape[1] == 0) {
    return {rows / shape[0], columns / shape[1], shape[0], shape[1]};
  }
  refuse(module, fmt::format("scales of a weight [{}, {}] quantised per {} are [{}, {}]; the file has [{}]", rows, columns,
                             quant_strategy_name(args.strategy), grid.rows, grid.columns, fmt::join(shape, ", ")));
}

void QuantizedCheckpoint::add(const std::string& module, const TensorInfo& codes, QuantizationConfig& config) {
  if (stored_.find(joined(module, kGroupIndex))) refuse(module, "activation order (weight_g_idx) is not supported");
  const QuantGroup* group = config.group_for(module);
  if (!group || !group->weights) {
    refuse(module, config.is_ignored(module)
                       ? "is quantised in the file, but quantization_config ignores it"
                       : "is quantised in the file, but no group of quantization_config targets its weight");
  }
  const QuantArgs& args = *group->weights;
  if (args.bits != 8) refuse(module, fmt::format("num_bits is {}; only 8 can be read", args.bits));
  if (args.dynamic) refuse(module, "weights cannot be quantised dynamically");
  if (codes.name.ends_with(kWeight) && stored_.find(joined(module, kPacked))) refuse(module, "is there both packed and plain");
  const TensorInfo* scale = scale_of(module, config);
  if (!scale) refuse(module, "has no weight_scale");

  auto weight = std::make_unique<Weight>();
  weight->name = codes.name;
  weight->bytes = stored_.bytes(codes.name);
  if (codes.shape.size() != 2 || codes.elements() == 0)
    refuse(module, fmt::format("codes have the shape [{}]; a matrix with elements is needed", fmt::join(codes.shape, ", ")));
  int64_t dims[2] = {codes.shape[0], codes.shape[1]};
  const auto formats = [&](std::initializer_list<std::string_view> allowed) {
    if (!group->format.empty() && std::ranges::find(allowed, group->format) == allowed.end()) {
      refuse(module, fmt::format("has {} codes in '{}', which is not what format '{}' stores", dtype_name(codes.dtype),
                                 codes.name, group->format));
    }
  };
  if (codes.name.ends_with(kPacked)) {
    weight->codes = Codes::packed;
    formats({"pack-quantized"});
    const TensorInfo* shape = stored_.find(joined(module, kShape));
    if (!shape) refuse(module, "weight_packed needs weight_shape");
    if (codes.dtype != DType::i32) refuse(module, "weight_packed is not I32");
    if (!is_one_of(shape->dtype, {DType::i64, DType::i32}) || shape->shape != std::vector<int64_t>{2})
      refuse(module, "weight_shape is not I64 or I32 with two elements");
    const uint8_t* stored_dims = stored_.bytes(shape->name).data();
    if (shape->dtype == DType::i64) std::memcpy(dims, stored_dims, sizeof dims);
    else {
      int32_t narrow[2];
      std::memcpy(narrow, stored_dims, sizeof narrow);
      dims[0] = narrow[0], dims[1] = narrow[1];
    }
    // The packed width bounds the columns, so nothing below can overflow.
    if (dims[0] != codes.shape[0] || dims[1] < 1 || dims[1] > codes.shape[1] * 4 || dims[1] <= (codes.shape[1] - 1) * 4) {
      refuse(module, fmt::format("weight_shape [{}, {}] does not go with weight_packed [{}, {}]", dims[0], dims[1],
                                 codes.shape[0], codes.shape[1]));
    }
  } else if (codes.dtype == DType::i8) {
    weight->codes = Codes::i8;
    formats({"int-quantized", "naive-quantized"});
  } else if (codes.dtype == DType::f8_e4m3) {
    weight->codes = Codes::f8;
    formats({"float-quantized", "naive-quantized", "mxfp8-quantized"});
  } else {
    refuse(module, fmt::format("weight is {}; I8 and F8_E4M3 go with scales", dtype_name(codes.dtype)));
  }
  const auto [rows, columns] = dims;
  if ((args.type == QuantType::floating) != (weight->codes == Codes::f8)) {
    refuse(module, fmt::format("codes are {}, but {} in quantization_config", dtype_name(codes.dtype),
                               args.type == QuantType::floating ? "float" : "int"));
  }
  weight->scale_type = scale_values(scale->dtype);
  if (!is_one_of(weight->scale_type, {DType::f32, DType::f16, DType::bf16, DType::f8_e8m0})) {
    refuse(module, fmt::format("weight_scale is {}, not F32, F16, BF16, U8 or F8_E8M0", dtype_name(scale->dtype)));
  }
  weight->scales = stored_.bytes(scale->name);
  weight->grid = grid_for(module, args, config.dialect(), rows, columns, *scale);
  if (const TensorInfo* zeros = stored_.find(joined(module, kZero))) add_zeros(*weight, *zeros);
  else if (!args.symmetric) refuse(module, "is asymmetric, but has no weight_zero_point");
  if (!table_.add({joined(module, kWeight), DType::f32, {rows, columns}})) refuse(module, "is there both packed and plain");
  weights_.push_back(std::move(weight));
}

void QuantizedCheckpoint::add_zeros(Weight& weight, const TensorInfo& zeros) const {
  const Grid& grid = weight.grid;
  weight.zeros = stored_.bytes(zeros.name);
  weight.zero_type = zeros.dtype;
  weight.zeros_packed = weight.codes == Codes::packed && zeros.dtype == DType::i32 && zeros.shape.size() == 2;
  const int64_t rows = weight.zeros_packed ? ceil_div(grid.rows, 4) : grid.rows;
  const bool fits = zeros.shape == std::vector<int64_t>{rows, grid.columns} ||
                    (!weight.zeros_packed && ((grid.columns == 1 && zeros.shape == std::vector<int64_t>{rows}) ||
                                              (rows == 1 && grid.columns == 1 && zeros.elements() == 1)));
  if (!fits) {
    refuse(zeros.name,
           fmt::format("is [{}], but belongs to scales [{}, {}]", fmt::join(zeros.shape, ", "), grid.rows, grid.columns));
  }
  if (!weight.zeros_packed &&
      !is_one_of(zeros.dtype, {DType::i8, DType::i32, DType::i64, DType::f8_e4m3, DType::f32, DType::f16, DType::bf16})) {
    refuse(zeros.name, fmt::format("is {}", dtype_name(zeros.dtype)));
  }
}

void QuantizedCheckpoint::decode(const Weight& weight, int64_t first_row, int64_t rows, std::span<const uint8_t> codes,
                                 std::span<float> out) const {
  if (rows == 0) return;
  const Grid& grid = weight.grid;
  const int64_t columns = int64_t(out.size()) / rows, row_bytes = int64_t(codes.size()) / rows;
  std::vector<float> scales(size_t(grid.columns)), zeros(size_t(grid.columns), 0.0f);
  const std::array<float, 256>& f8 = f8_values();
  int64_t read = -1;  // the grid's row that scales and zeros hold
  for (int64_t r = 0; r < rows; ++r) {
    if (const int64_t at = (first_row + r) / grid.block_rows; at != read) {
      read = at;
      elements_to_f32(weight.scale_type, weight.scales.data() + at * grid.columns * dtype_bytes(weight.scale_type), scales);
      if (weight.zeros_packed) {
        for (int64_t c = 0; c < grid.columns; ++c)
          zeros[size_t(c)] = float(int8_t(weight.zeros[size_t((at / 4 * grid.columns + c) * 4 + at % 4)] ^ 0x80u));
      } else if (!weight.zeros.empty()) {
        elements_to_f32(weight.zero_type, weight.zeros.data() + at * grid.columns * dtype_bytes(weight.zero_type), zeros);
      }
    }
    for (int64_t c = 0; c < grid.columns; ++c) {
      const int64_t begin = c * grid.block_columns, n = std::min(grid.block_columns, columns - begin);
      const auto from = codes.subspan(size_t(r * row_bytes + begin), size_t(n));
      const auto to = out.subspan(size_t(r * columns + begin), size_t(n));
      const float scale = scales[size_t(c)], zero = zeros[size_t(c)];
      switch (weight.codes) {
        case Codes::i8:
          scale_codes(from, to, scale, zero, [](uint8_t q) { return float(int8_t(q)); });
          break;
        case Codes::packed:
          scale_codes(from, to, scale, zero, [](uint8_t q) { return float(int8_t(q ^ 0x80u)); });
          break;
        case Codes::f8:
          scale_codes(from, to, scale, zero, [&](uint8_t q) { return f8[q]; });
          break;
      }
    }
  }
}

void QuantizedCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const Weight* weight = weights_[i].get();
  if (!weight) return stored_.read_f32(name, first_row, rows, out);
  const int64_t row_bytes = stored_.extent(weight->name)->row_bytes;
  decode(*weight, first_row, rows, weight->bytes.subspan(size_t(first_row * row_bytes), size_t(rows * row_bytes)), out);
}

std::optional<RowExtent> QuantizedCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const Weight* weight = weights_[table_.index_of(*t)].get();
  return stored_.extent(weight ? weight->name : name);
}

void QuantizedCheckpoint::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                                      std::span<float> out) const {
  const size_t i = table_.row_range(folder_, name, first_row, rows, out);
  const Weight* weight = weights_[i].get();
  if (!weight) return stored_.decode_rows(name, first_row, rows, stored, out);
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * stored_.extent(weight->name)->row_bytes);
  decode(*weight, first_row, rows, stored, out);
}

std::optional<CodeLayout> QuantizedCheckpoint::code_layout(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  const Weight* weight = t ? weights_[table_.index_of(*t)].get() : nullptr;
  if (!weight || weight->codes == Codes::f8 || !weight->zeros.empty()) return std::nullopt;
  return CodeLayout{std::min(weight->grid.block_columns, t->row_elements()), false};
}

void QuantizedCheckpoint::read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const {
  const std::optional<CodeLayout> layout = code_layout(name);
  OVERPROOF_CHECK(layout.has_value());
  const TensorInfo& t = *table_.find(name);
  const Weight& weight = *weights_[table_.index_of(t)];
  const int64_t columns = t.row_elements(), blocks = layout->blocks(columns), row_bytes = stored_.extent(weight.name)->row_bytes;
  OVERPROOF_CHECK(first_row >= 0 && first_row + rows <= t.shape[0] && int64_t(out.codes.size()) == rows * columns &&
                  int64_t(out.scales.size()) == rows * blocks && blocks == weight.grid.columns);
  const uint8_t flip = weight.codes == Codes::packed ? 0x80 : 0;  // packed codes are biased
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* from = weight.bytes.data() + (first_row + r) * row_bytes;
    int8_t* to = out.codes.data() + r * columns;
    for (int64_t c = 0; c < columns; ++c) to[c] = int8_t(from[c] ^ flip);
    const int64_t scale = (first_row + r) / weight.grid.block_rows * blocks * dtype_bytes(weight.scale_type);
    elements_to_f32(weight.scale_type, weight.scales.data() + scale, out.scales.subspan(size_t(r * blocks), size_t(blocks)));
  }
}

void refuse_quantized_parts(const SafetensorsCheckpoint& checkpoint, const fs::path& folder, const Json& config) {
  const std::vector<std::string> foreign = foreign_quantization_keys(config);
  const auto refuse = [&](const std::string& name, std::string_view cause) {
    throw FormatError(folder, -1,
                      fmt::format("'{}' {}, but config.json has no quantization_config to read it by; take the checkpoint that it was made "
                                  "from, or one with its quantization_config{}",
                                  name, cause,
                                  foreign.empty() ? "" : fmt::format(" (its '{}' is read neither here nor by transformers; where it describes these weights, "
                                                                     "its place is quantization_config)",
                                                                     foreign.front())));
  };
  for (const TensorInfo& t : checkpoint.tensors()) {
    const std::string_view name = t.name;
    if (name.ends_with(kPacked) || name.ends_with(kScale) || name.ends_with(kScaleInv)) refuse(t.name, "is part of a quantised weight");
    if (!name.ends_with(kWeight)) continue;
    if (is_integer(t.dtype) || is_one_of(t.dtype, {DType::f8_e4m3, DType::f8_e5m2, DType::f8_e4m3fnuz, DType::f8_e5m2fnuz}))
      refuse(t.name, fmt::format("is stored as {}{}: codes, not weights", dtype_name(t.dtype), next_to(checkpoint, module_of(name, kWeight))));
  }
}

}  // namespace overproof
