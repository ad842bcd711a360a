#pragma once
// The factories of the schemes in find_scheme's table, and what their classes share.

#include <bit>
#include <cstring>
#include <memory>

#include "core/json.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

using SchemeMaker = std::unique_ptr<Scheme> (*)(const SchemeOptions&);
std::unique_ptr<Scheme> make_int8(const SchemeOptions&);
std::unique_ptr<Scheme> make_int8_g128(const SchemeOptions&);
std::unique_ptr<Scheme> make_w8a8(const SchemeOptions&);
std::unique_ptr<Scheme> make_w8a8_static(const SchemeOptions&);
std::unique_ptr<Scheme> make_fp8(const SchemeOptions&);
std::unique_ptr<Scheme> make_fp8_block(const SchemeOptions&);
std::unique_ptr<Scheme> make_fp8_native(const SchemeOptions&);
std::unique_ptr<Scheme> make_mxfp8(const SchemeOptions&);
std::unique_ptr<Scheme> make_q8_0(const SchemeOptions&);

/// compressed-tensors' QuantizationArgs. `group_size` and `block_structure` may be null.
struct QuantizationArgs {
  const char* type = "int";
  const char* strategy = "channel";
  bool symmetric = true;
  bool dynamic = false;
  Json group_size = nullptr;
  Json block_structure = nullptr;
};
Json to_json(const QuantizationArgs& args);
/// QuantizationArgs of rounded inputs; null for nullopt.
Json to_json(const std::optional<ActivationRounding>& inputs);
/// The config group of a scheme for all Linear modules; its input_activations are the scheme's input_rounding().
Json linear_group(const Scheme& scheme, Json weights);

/// "X.weight" -> "X." + part; for other names name + "." + part.
std::string sibling_name(const TensorInfo& weight, std::string_view part);

/// The bytes of values as they are in memory, which is little-endian here.
static_assert(std::endian::native == std::endian::little);
template <class T>
std::vector<uint8_t> bytes_of(std::span<const T> values) {
  std::vector<uint8_t> bytes(values.size_bytes());
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

/// One implementation for rows of f32 and of bf16. Derived has
/// `template <class In> RowsResult rows(int64_t first, int64_t rows, std::span<const In>, bytes, scales) const`.
template <class Derived>
class TypedRowQuantizer : public RowQuantizer {
 public:
  RowsResult quantize(int64_t first_row, int64_t rows, std::span<float> x, std::span<uint8_t> bytes,
                      std::span<float> scales) const override {
    return static_cast<const Derived*>(this)->template rows<float>(first_row, rows, x, bytes, scales);
  }
  RowsResult quantize_bf16(int64_t first_row, int64_t rows, std::span<const uint16_t> x, std::span<uint8_t> bytes,
                           std::span<float> scales) const override {
    return static_cast<const Derived*>(this)->template rows<uint16_t>(first_row, rows, x, bytes, scales);
  }
};

}  // namespace overproof
