#pragma once
// The int8 weights of compressed-tensors' `pack-quantized` format, and a view of such a checkpoint as f32.
//
//   X.weight_packed I32 [o, ceil(i / 4)]   four values q + 128 in a word, the first in its low byte; padded with zeros
//   X.weight_scale  F32, F16 or BF16 [o, 1] (per channel), [o, i / g] (per group of g columns) or [1] (per tensor)
//   X.weight_shape  I64 [2]                {o, i}
//
// Source: compressed_tensors/compressors/pack_quantized of PyPI compressed-tensors 0.20.

#include <memory>
#include <span>

#include "core/json_fwd.h"
#include "formats/safetensors_checkpoint.h"

namespace overproof {

/// Bytes of a packed row of `columns` int8 values: whole 32-bit words.
constexpr int64_t packed_int8_row_bytes(int64_t columns) { return (columns + 3) / 4 * 4; }
/// One row; out.size() is packed_int8_row_bytes(q.size()).
void pack_int8_row(std::span<const int8_t> q, std::span<uint8_t> out);
/// The inverse; `packed` holds packed_int8_row_bytes(out.size()) bytes, of which the padding is ignored.
void unpack_int8_row(std::span<const uint8_t> packed, std::span<int8_t> out);

/// out = q * scale in f32, one scale for each group of out.size() / scales.size() columns.
void dequantize_packed_int8_row(std::span<const uint8_t> packed, std::span<const float> scales, std::span<float> out);

/// True when config.json says that the weights are quantised in any way.
bool has_quantization_config(const Json& config);

/// X.weight stands for X.weight_packed, X.weight_scale and X.weight_shape; other tensors pass through. Scales of 16 bits are
/// widened first and the product is not rounded to them, unlike the peer's. Throws FormatError when quantization_config asks
/// for anything else than symmetric static 8-bit integers in this format, or when the three tensors disagree.
class CompressedTensorsCheckpoint : public TensorSource {
 public:
  CompressedTensorsCheckpoint(const fs::path& folder, const Json& config);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return stored_.files(); }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  const SafetensorsCheckpoint& stored() const { return stored_; }

 private:
  struct Packed {
    std::string name;  // of weight_packed
    std::span<const uint8_t> words, scales;
    DType scale_type = DType::f32;
    int64_t scales_per_row = 0;  // 0: one for the whole tensor
  };
  void decode(const Packed& source, int64_t first_row, int64_t rows, std::span<const uint8_t> words, std::span<float> out) const;
  void add_packed(const TensorInfo& packed, const std::string& module);
  fs::path folder_;
  SafetensorsCheckpoint stored_;
  TensorTable table_;
  std::vector<std::unique_ptr<Packed>> packed_;  // beside table_.list(); null for a tensor that passes through
};

}  // namespace overproof
