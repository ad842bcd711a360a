#pragma once
// A checkpoint with 8-bit weights, seen as f32: X.weight is computed from codes, scales and zero points.
//
//   codes    X.weight I8 or F8_E4M3 [o, i]; or X.weight_packed I32 [o, ceil(i / 4)] with X.weight_shape I64 [2] = {o, i}
//   scales   X.weight_scale, or X.weight_scale_inv in the fp8 dialect (which multiplies, too): F32, F16, BF16, or U8 and F8_E8M0
//            for powers of two. [1] or [] per tensor, [o, 1] or [o] per channel, [o, ceil(i / g)] per group,
//            [ceil(o / r), ceil(i / c)] per block of r x c
//   zeros    X.weight_zero_point, shaped as the scales; with packed codes I32 [ceil(o / 4), groups], packed along the rows
//
//   weight = (code - zero) x scale, computed in f32 (peers round to the scale's type: their values differ in the last bits).
//
// Sources: compressed_tensors/compressors/{pack_quantized,naive_quantized,mxfp8} of PyPI compressed-tensors 0.20;
// transformers 5.23, integrations/finegrained_fp8.py.

#include <memory>
#include <span>

#include "formats/integer_codes.h"
#include "formats/quantization_config.h"
#include "formats/safetensors_checkpoint.h"

namespace overproof {

/// Which tensors are quantised follows from the file, and the config must agree: it targets the module, with 8 bits, the type of
/// the codes and the shape of the scales. Scales and input scales of activations, and every tensor that belongs to no quantised
/// weight, pass through under their own names. Throws FormatError naming the tensor otherwise, and for codes without
/// scales or scales without codes.
class QuantizedCheckpoint : public TensorSource, public IntegerCodes {
 public:
  /// Modules whose weight is not quantised in the file are added to `config` as plain.
  QuantizedCheckpoint(const fs::path& folder, QuantizationConfig& config);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return stored_.files(); }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  /// Of integers without zero points.
  std::optional<CodeLayout> code_layout(std::string_view name) const override;
  void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const override;
  const SafetensorsCheckpoint& stored() const { return stored_; }

 private:
  enum class Codes : uint8_t { i8, packed, f8 };
  /// One value for each block of rows x columns.
  struct Grid {
    int64_t block_rows = 1, block_columns = 1;
    int64_t rows = 1, columns = 1;  // of the grid
  };
  struct Weight {
    std::string name;  // of the codes
    Codes codes = Codes::i8;
    std::span<const uint8_t> bytes, scales, zeros;
    Grid grid;
    DType scale_type = DType::f32, zero_type = DType::i8;
    bool zeros_packed = false;
  };
  void add(const std::string& module, const TensorInfo& codes, QuantizationConfig& config);
  void add_zeros(Weight& weight, const TensorInfo& zeros) const;
  void add_plain(const TensorInfo& tensor, QuantizationConfig& config);
  const TensorInfo* scale_of(const std::string& module, const QuantizationConfig& config) const;
  Grid grid_for(const std::string& module, const QuantArgs& args, QuantDialect dialect, int64_t rows, int64_t columns,
                const TensorInfo& scale) const;
  void decode(const Weight& weight, int64_t first_row, int64_t rows, std::span<const uint8_t> codes, std::span<float> out) const;
  [[noreturn]] void refuse(const std::string& module, const std::string& cause) const;
  fs::path folder_;
  SafetensorsCheckpoint stored_;
  TensorTable table_;
  std::vector<std::unique_ptr<Weight>> weights_;  // in the order of table_.list(); null for a tensor that passes through
};

/// Throws FormatError when a checkpoint without quantization_config has the parts of quantised weights: their codes would be read
/// as weights.
void refuse_quantized_parts(const SafetensorsCheckpoint& checkpoint, const fs::path& folder, const Json& config);

}  // namespace overproof
