#pragma once
// ggml's tensor types as stored in GGUF files, and their values as f32.
// Layouts: ggml/src/ggml-common.h of llama.cpp. The arithmetic is done in f32 in the order of the reference
// (gguf.quants.dequantize of PyPI gguf), so results are equal to the bit.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "formats/integer_codes.h"

namespace overproof {

/// The types we read, with ggml's numbers.
enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30
};

struct GgmlLayout {
  std::string_view name;  ///< "Q4_K"
  int64_t block_values;   ///< values in a block; a row is a whole number of blocks
  int64_t block_bytes;
};

/// nullopt for a type that is not supported.
std::optional<GgmlLayout> ggml_layout(uint32_t type);
GgmlLayout ggml_layout(GgmlType type);

/// How the values follow from codes; nullopt for the floating-point types. The block is ggml's, or a sub-block with a scale of its own.
std::optional<CodeLayout> ggml_code_layout(GgmlType type);

/// The codes of whole blocks with their scales and offsets; out.codes.size() is a multiple of block_values. For types with a layout.
void ggml_to_codes(GgmlType type, const uint8_t* blocks, const CodeRows& out);

/// Dequantises whole blocks; out.size() is a multiple of block_values and `blocks` holds as many blocks, at any alignment.
void ggml_to_f32(GgmlType type, const uint8_t* blocks, std::span<float> out);

}  // namespace overproof
