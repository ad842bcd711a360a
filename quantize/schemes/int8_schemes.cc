// int8 weights in the two formats of compressed-tensors: packed (weights only) and plain (with int8 activations).

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "formats/compressed_tensors.h"
#include "quantize/kernels/int8.h"
#include "quantize/schemes/schemes.h"
#include "records/activation_statistics.h"

namespace overproof {
namespace {

/// Packed codes are stored as q + 128.
constexpr uint8_t kPackedFlip = 0x80;

/// Rows of int8 with one scale for each `group` columns: packed as q + 128 in whole words, or plain.
class Int8Rows : public TypedRowQuantizer<Int8Rows> {
 public:
  Int8Rows(const TensorInfo& weight, int64_t group, bool packed, Clipping clipping)
      : shape_{weight.shape[0], weight.shape[1]}, group_(group), packed_(packed), clipping_(clipping) {}

  template <class In>
  RowsResult rows(int64_t first_row, int64_t rows, std::span<const In> x, std::span<uint8_t> bytes,
                  std::span<float> scales) const {
    const size_t columns = size_t(shape_[1]), row_bytes = packed_ ? size_t(packed_int8_row_bytes(shape_[1])) : columns;
    RowsResult result;
    for (size_t r = 0; r < size_t(rows); ++r) {
      const std::span<const In> row = x.subspan(r * columns, columns);
      const std::span<uint8_t> out = bytes.subspan(r * row_bytes, row_bytes);
      const ScaledRow made =
          quantize_int8_groups(row, group_, {reinterpret_cast<int8_t*>(out.data()), columns},
                               &scales[r * (columns / size_t(group_))], clipping_, row_kernels(), packed_ ? kPackedFlip : 0);
      result.error += made.error;
      if (!made.finite && result.bad_row < 0) result.bad_row = first_row + int64_t(r);
      std::fill(out.begin() + int64_t(columns), out.end(), uint8_t{0});
    }
    return result;
  }

  std::vector<uint8_t> side_output(int which, std::span<const float> scales) const override {
    if (which == 2) return bytes_of(std::span<const int64_t>(shape_));
    return bytes_of(scales);
  }

 private:
  int64_t shape_[2], group_;
  bool packed_;
  Clipping clipping_;
};

/// compressed-tensors `pack-quantized`, 8 bits, activations not rounded (W8A16), F32 scales for each output channel or group of
/// columns. transformers loads it, mixtures of experts too, and vLLM. Peers store BF16 scales, with 11-15 % more divergence.
class PackedInt8 final : public Scheme {
 public:
  /// group 0: the whole row.
  PackedInt8(std::string_view name, int64_t group, Clipping clipping) : name_(name), group_(group), clipping_(clipping) {}
  std::string_view name() const override { return name_; }
  std::string_view format() const override { return "pack-quantized"; }
  int64_t weight_group() const override { return group_; }
  std::optional<Int8Layout> int8_layout() const override { return Int8Layout{group_, kPackedFlip}; }

  bool takes(const TensorInfo& weight) const override {
    return Scheme::takes(weight) && (group_ == 0 || weight.shape[1] % group_ == 0);
  }
  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    const int64_t rows = weight.shape[0], columns = weight.shape[1];
    return {{weight.name + "_packed", DType::i32, {rows, row_bytes(columns) / 4}},
            {weight.name + "_scale", DType::f32, {rows, row_scales(1, columns)}},
            {weight.name + "_shape", DType::i64, {2}}};
  }
  std::unique_ptr<Scheme> fallback() const override {
    return group_ == 0 ? nullptr : std::make_unique<PackedInt8>("int8", 0, clipping_);
  }
  std::optional<DeviceTiles> device_tiles(const TensorInfo& weight) const override {
    if (clipping_ != Clipping::absmax) return std::nullopt;
    return DeviceTiles{.columns = group_ == 0 ? weight.shape[1] : group_, .flip = kPackedFlip, .error_piece = kGroupsAtOnce};
  }
  int64_t row_bytes(int64_t columns) const override { return packed_int8_row_bytes(columns); }
  int64_t row_scales(int64_t rows, int64_t columns) const override { return group_ == 0 ? rows : rows * (columns / group_); }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts&) const override {
    return std::make_unique<Int8Rows>(weight, group_ == 0 ? weight.shape[1] : group_, true, clipping_);
  }
  Json config_group() const override {
    const QuantizationArgs channel, group{.strategy = "group", .group_size = group_};
    return linear_group(*this, to_json(group_ == 0 ? channel : group));
  }

 private:
  std::string_view name_;
  int64_t group_;
  Clipping clipping_;
};

/// compressed-tensors `int-quantized`: I8 weights with one scale per output channel; the runtime rounds activations to int8 with
/// one scale per token (vLLM; transformers for dense models, it fails on mixtures of experts).
class W8A8 : public Scheme {
 public:
  explicit W8A8(const SchemeOptions& options) : options_(options) {}
  std::string_view name() const override { return "w8a8"; }
  std::string_view format() const override { return "int-quantized"; }
  std::optional<Int8Layout> int8_layout() const override { return Int8Layout{}; }
  std::optional<ActivationRounding> input_rounding() const override {
    return ActivationRounding{.symmetric = !options_.asymmetric};
  }

  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    return {{weight.name, DType::i8, weight.shape}, {weight.name + "_scale", DType::f32, {weight.shape[0], 1}}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns; }
  int64_t row_scales(int64_t rows, int64_t) const override { return rows; }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts&) const override {
    return std::make_unique<Int8Rows>(weight, weight.shape[1], false, options_.clipping);
  }
  std::optional<DeviceTiles> device_tiles(const TensorInfo& weight) const override {
    if (options_.clipping != Clipping::absmax) return std::nullopt;
    return DeviceTiles{.columns = weight.shape[1]};
  }
  Json config_group() const override { return linear_group(*this, to_json(QuantizationArgs{})); }

 protected:
  SchemeOptions options_;
};

/// Static rounding of int8 activations: x ~ (q - zero_point) x scale, q in [-128, 127].
struct InputRange {
  float scale = 0;
  int8_t zero_point = 0;
};

/// As compressed-tensors' calculate_qparams, in f32: the range is widened to hold zero; symmetric spreads the larger magnitude
/// over 127.5 steps, asymmetric the range over 255. Throws DivergenceError naming the weight when the range is not finite.
InputRange input_range(const TensorInfo& weight, const LinearStatistics& statistics, bool asymmetric) {
  const float least = std::min(statistics.least, 0.0f), most = std::max(statistics.largest, 0.0f);
  if (!std::isfinite(statistics.least) || !std::isfinite(statistics.largest))
    throw DivergenceError(
        fmt::format("the recorded inputs of {} are not finite; record activations again with other text", weight.name));
  InputRange range;
  // Halved, because the difference of two finite floats may overflow.
  range.scale = asymmetric ? (most / 2 - least / 2) / 127.5f : std::max(-least, most) / 127.5f;
  if (range.scale < 0x1p-126f) return {0x1p-23f, 0};  // almost all zeros: any scale fits; this is compressed-tensors'
  if (asymmetric) range.zero_point = int8_t(std::nearbyint(std::clamp(-128.0f - least / range.scale, -128.0f, 127.0f)));
  return range;
}

class W8A8StaticRows final : public Int8Rows {
 public:
  W8A8StaticRows(const TensorInfo& weight, Clipping clipping, InputRange range)
      : Int8Rows(weight, weight.shape[1], false, clipping), range_(range) {}
  std::vector<uint8_t> side_output(int which, std::span<const float> scales) const override {
    switch (which) {
      case 2:
        return bytes_of(std::span<const float>(&range_.scale, 1));
      case 3:
        return {uint8_t(range_.zero_point)};
      default:
        return bytes_of(scales);
    }
  }

 private:
  InputRange range_;
};

/// The same with one activation scale per tensor, from calibration (vLLM).
class W8A8Static final : public W8A8 {
 public:
  using W8A8::W8A8;
  std::string_view name() const override { return "w8a8-static"; }
  std::optional<ActivationRounding> input_rounding() const override {
    return ActivationRounding{.symmetric = !options_.asymmetric, .is_static = true};
  }

  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    std::vector<TensorInfo> list = W8A8::outputs(weight);
    list.push_back({sibling_name(weight, "input_scale"), DType::f32, {1}});
    if (options_.asymmetric) list.push_back({sibling_name(weight, "input_zero_point"), DType::i8, {1}});
    return list;
  }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts& facts) const override {
    if (facts.statistics == nullptr)
      throw MismatchError(
          fmt::format("scheme 'w8a8-static' needs the range of the inputs of {}, and too few were recorded; record --activations "
                      "with more text, or use scheme 'w8a8', which needs none",
                      weight.name));
    return std::make_unique<W8A8StaticRows>(weight, options_.clipping,
                                            input_range(weight, *facts.statistics, options_.asymmetric));
  }
};

}  // namespace

std::unique_ptr<Scheme> make_int8(const SchemeOptions& o) { return std::make_unique<PackedInt8>("int8", 0, o.clipping); }
std::unique_ptr<Scheme> make_int8_g128(const SchemeOptions& o) {
  return std::make_unique<PackedInt8>("int8-g128", 128, o.clipping);
}
std::unique_ptr<Scheme> make_w8a8(const SchemeOptions& o) { return std::make_unique<W8A8>(o); }
std::unique_ptr<Scheme> make_w8a8_static(const SchemeOptions& o) { return std::make_unique<W8A8Static>(o); }

}  // namespace overproof
