// F8_E4M3 weights: compressed-tensors' float-quantized and mxfp8-quantized, and DeepSeek's native layout.

#include <algorithm>
#include <cmath>

#include "quantize/kernels/block.h"
#include "quantize/kernels/fp8.h"
#include "quantize/schemes/schemes.h"

namespace overproof {
namespace {

/// One scale per output channel, or one given scale for the whole weight.
class Fp8Rows final : public TypedRowQuantizer<Fp8Rows> {
 public:
  Fp8Rows(int64_t columns, Clipping clipping) : columns_(columns), clipping_(clipping) {}
  Fp8Rows(int64_t columns, float tensor_scale) : columns_(columns), per_tensor_(true), tensor_scale_(tensor_scale) {}

  template <class In>
  RowsResult rows(int64_t first_row, int64_t rows, std::span<const In> x, std::span<uint8_t> bytes,
                  std::span<float> scales) const {
    const size_t columns = size_t(columns_);
    RowsResult result;
    for (size_t r = 0; r < size_t(rows); ++r) {
      const std::span<const In> row = x.subspan(r * columns, columns);
      const std::span<uint8_t> codes = bytes.subspan(r * columns, columns);
      bool finite = true;
      if (per_tensor_) {
        const InputKernels<In>& k = row_kernels().of<In>();
        finite = !is_not_finite(k.amax_bits(row.data(), columns_));
        if (finite) result.error += k.fp8(row.data(), columns_, tensor_scale_, codes.data());
      } else {
        const ScaledRow made = quantize_fp8_row(row, codes, clipping_);
        scales[r] = made.scale;
        result.error += made.error;
        finite = made.finite;
      }
      if (!finite && result.bad_row < 0) result.bad_row = first_row + int64_t(r);
    }
    return result;
  }

  std::vector<uint8_t> side_output(int, std::span<const float> scales) const override {
    return bytes_of(per_tensor_ ? std::span<const float>(&tensor_scale_, 1) : scales);
  }

 private:
  int64_t columns_;
  Clipping clipping_ = Clipping::absmax;
  bool per_tensor_ = false;
  float tensor_scale_ = 1.0f;
};

/// compressed-tensors `float-quantized`: F8_E4M3 weights with an F32 scale per output channel (or per weight); the runtime rounds
/// activations to fp8 with one scale per token. transformers loads it, mixtures of experts too, and vLLM.
class Fp8 final : public Scheme {
 public:
  explicit Fp8(const SchemeOptions& options) : options_(options) {}
  std::string_view name() const override { return "fp8"; }
  std::string_view format() const override { return "float-quantized"; }
  std::optional<ActivationRounding> input_rounding() const override {
    return ActivationRounding{.type = ActivationRounding::Type::fp8};
  }
  bool needs_amax() const override { return options_.per_tensor; }

  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    const std::vector<int64_t> scales = options_.per_tensor ? std::vector<int64_t>{1} : std::vector<int64_t>{weight.shape[0], 1};
    return {{weight.name, DType::f8_e4m3, weight.shape}, {weight.name + "_scale", DType::f32, scales}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns; }
  int64_t row_scales(int64_t rows, int64_t) const override { return options_.per_tensor ? 0 : rows; }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts& facts) const override {
    // An infinite amax is reported with its row when the rows are quantized.
    if (options_.per_tensor)
      return std::make_unique<Fp8Rows>(weight.shape[1], std::isfinite(facts.amax) ? fp8_scale(facts.amax) : 1.0f);
    return std::make_unique<Fp8Rows>(weight.shape[1], options_.clipping);
  }
  std::optional<DeviceTiles> device_tiles(const TensorInfo& weight) const override {
    if (options_.clipping != Clipping::absmax) return std::nullopt;
    return DeviceTiles{.codes = ElementType::f8_e4m3, .columns = weight.shape[1], .given_scale = options_.per_tensor};
  }
  Json config_group() const override {
    return linear_group(*this,
                        to_json(QuantizationArgs{.type = "float", .strategy = options_.per_tensor ? "tensor" : "channel"}));
  }

 private:
  SchemeOptions options_;
};

/// One scale for each block of 128 x 128; the last ones may be smaller. Rows come in whole blocks.
class Fp8BlockRows final : public TypedRowQuantizer<Fp8BlockRows> {
 public:
  Fp8BlockRows(int64_t columns, Clipping clipping) : columns_(columns), clipping_(clipping) {}

  template <class In>
  RowsResult rows(int64_t first_row, int64_t rows, std::span<const In> x, std::span<uint8_t> bytes,
                  std::span<float> scales) const {
    RowsResult result;
    for (int64_t top = 0; top < rows; top += kBlock) {
      const size_t at = size_t(top * columns_);
      const BlockRows made = quantize_fp8_blocks(&x[at], std::min(kBlock, rows - top), columns_, &bytes[at],
                                                 &scales[size_t(block_scale_index(top, 0, columns_))], clipping_);
      result.error += made.error;
      if (made.bad_row >= 0 && result.bad_row < 0) result.bad_row = first_row + top + made.bad_row;
    }
    return result;
  }

  std::vector<uint8_t> side_output(int, std::span<const float> scales) const override { return bytes_of(scales); }

 private:
  int64_t columns_;
  Clipping clipping_;
};

/// compressed-tensors `float-quantized`, strategy block: F32 scales [ceil(o / 128), ceil(i / 128)], activations in fp8 with a
/// scale for each 128 values of a token. vLLM loads it; transformers does not for mixtures of experts.
class Fp8Block : public Scheme {
 public:
  explicit Fp8Block(Clipping clipping) : clipping_(clipping) {}
  std::string_view name() const override { return "fp8-block"; }
  std::string_view format() const override { return "float-quantized"; }
  std::optional<ActivationRounding> input_rounding() const override {
    return ActivationRounding{.type = ActivationRounding::Type::fp8, .group = kBlock};
  }
  int64_t row_unit() const override { return kBlock; }
  /// The format has smaller blocks at the ends; its loaders do not. transformers divides the shape by the number of blocks, vLLM
  /// rounds activations in whole groups of 128 and asks of fused weights that 128 divides their rows.
  bool is_loaded(const TensorInfo& weight) const override { return weight.shape[0] % kBlock == 0 && weight.shape[1] % kBlock == 0; }
  std::string_view needs_shape() const override { return " (both dimensions must be multiples of 128)"; }

  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    return {{weight.name, DType::f8_e4m3, weight.shape},
            {weight.name + scale_suffix(), DType::f32, {blocks_of(weight.shape[0]), blocks_of(weight.shape[1])}}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns; }
  int64_t row_scales(int64_t rows, int64_t columns) const override { return blocks_of(rows) * blocks_of(columns); }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts&) const override {
    return std::make_unique<Fp8BlockRows>(weight.shape[1], clipping_);
  }
  std::optional<DeviceTiles> device_tiles(const TensorInfo&) const override {
    if (clipping_ != Clipping::absmax) return std::nullopt;
    return DeviceTiles{.codes = ElementType::f8_e4m3, .rows = kBlock, .columns = kBlock};
  }
  Json config_group() const override {
    return linear_group(*this,
                        to_json(QuantizationArgs{.type = "float", .strategy = "block", .block_structure = {kBlock, kBlock}}));
  }

 protected:
  virtual std::string scale_suffix() const { return "_scale"; }

 private:
  Clipping clipping_;
};

/// DeepSeek-V3's own layout of the same bytes: X.weight and X.weight_scale_inv (codes are multiplied by it,
/// in spite of its name). Loaders: transformers (FineGrainedFP8Config; dequantized without a GPU), vLLM, SGLang.
class Fp8Native final : public Fp8Block {
 public:
  using Fp8Block::Fp8Block;
  std::string_view name() const override { return "fp8-native"; }
  std::string_view format() const override { return "fp8"; }
  Container container() const override { return Container::deepseek_fp8; }
  Json config_group() const override { return nullptr; }

  Json quantization_config(const std::vector<std::string>& ignored) const override {
    // Loaders match names from the start as regular expressions, or compare them; they do not support "re:".
    std::vector<std::string> names;
    for (const std::string& name : ignored) names.push_back(name.starts_with("re:") ? name.substr(3) : name);
    return {{"quant_method", "fp8"},
            {"fmt", "e4m3"},
            {"activation_scheme", "dynamic"},
            {"weight_block_size", {kBlock, kBlock}},
            {"modules_to_not_convert", names}};
  }

 protected:
  std::string scale_suffix() const override { return "_scale_inv"; }
};

/// E8M0 exponents are kept as the scales of the rows, one per group, and become bytes in side_output.
class Mxfp8Rows final : public TypedRowQuantizer<Mxfp8Rows> {
 public:
  explicit Mxfp8Rows(int64_t columns) : columns_(columns) {}

  template <class In>
  RowsResult rows(int64_t first_row, int64_t rows, std::span<const In> x, std::span<uint8_t> bytes,
                  std::span<float> scales) const {
    constexpr int64_t kPiece = 64 * kMxGroup;  // bounds the exponents, which are on the stack
    static_assert(kPiece % kErrorBlock == 0);
    RowsResult result;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t begin = 0; begin < columns_; begin += kPiece) {
        const int64_t at = r * columns_ + begin, count = std::min(kPiece, columns_ - begin);
        uint8_t exponents[kPiece / kMxGroup];
        if (!row_kernels().of<In>().mxfp8(&x[size_t(at)], count, &bytes[size_t(at)], exponents, result.error)) {
          if (result.bad_row < 0) result.bad_row = first_row + r;
          continue;
        }
        std::copy(exponents, exponents + count / kMxGroup, &scales[size_t(at / kMxGroup)]);
      }
    return result;
  }

  std::vector<uint8_t> side_output(int, std::span<const float> scales) const override {
    std::vector<uint8_t> exponents(scales.size());
    // A row that is refused (bad_row) has no exponents.
    std::transform(scales.begin(), scales.end(), exponents.begin(),
                   [](float s) { return std::isfinite(s) ? uint8_t(s) : uint8_t{0}; });
    return exponents;
  }

 private:
  int64_t columns_;
};

/// OCP MXFP8 as in compressed-tensors, `mxfp8-quantized`: F8_E4M3 weights, `.weight_scale` U8 [o, i / 32] holding E8M0
/// exponents, activations likewise at run time. Loaders: vLLM (its compressed-tensors schemes for W8A8 MXFP8, linear and mixtures
/// of experts), and transformers with compressed-tensors for dense models loaded as bf16 (in f32 it fails: decompressed weights
/// are bf16). The "mxfp8" quant_method of transformers is another format, with DeepSeek's names.
class Mxfp8 final : public Scheme {
 public:
  std::string_view name() const override { return "mxfp8"; }
  std::string_view format() const override { return "mxfp8-quantized"; }
  int64_t weight_group() const override { return kMxGroup; }
  std::optional<ActivationRounding> input_rounding() const override {
    return ActivationRounding{.type = ActivationRounding::Type::fp8, .power_of_two = true, .group = kMxGroup};
  }
  bool takes(const TensorInfo& weight) const override { return Scheme::takes(weight) && weight.shape[1] % kMxGroup == 0; }
  std::string_view needs_shape() const override { return " (columns must be a multiple of 32)"; }

  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    return {{weight.name, DType::f8_e4m3, weight.shape},
            {weight.name + "_scale", DType::u8, {weight.shape[0], weight.shape[1] / kMxGroup}}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns; }
  int64_t row_scales(int64_t rows, int64_t columns) const override { return rows * (columns / kMxGroup); }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts&) const override {
    return std::make_unique<Mxfp8Rows>(weight.shape[1]);
  }
  Json config_group() const override {
    Json weights = to_json(QuantizationArgs{.type = "float", .strategy = "group", .group_size = kMxGroup});
    weights["scale_dtype"] = "torch.uint8";
    return linear_group(*this, std::move(weights));
  }
};

}  // namespace

std::unique_ptr<Scheme> make_fp8(const SchemeOptions& o) { return std::make_unique<Fp8>(o); }
std::unique_ptr<Scheme> make_fp8_block(const SchemeOptions& o) { return std::make_unique<Fp8Block>(o.clipping); }
std::unique_ptr<Scheme> make_fp8_native(const SchemeOptions& o) { return std::make_unique<Fp8Native>(o.clipping); }
std::unique_ptr<Scheme> make_mxfp8(const SchemeOptions&) { return std::make_unique<Mxfp8>(); }

}  // namespace overproof
