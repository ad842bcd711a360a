#pragma once
// Matrices that a file stores as integers of at most 8 bits, for programs that keep the integers instead of their values.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace overproof {

/// value[r][c] = code[r][c] x scale[r][b], or, with offsets, code[r][c] x scale[r][b] + offset[r][b], where b = c / block. In f32, each
/// operation rounded on its own: these are the bits of TensorSource::read_f32.
struct CodeLayout {
  int64_t block = 0;  ///< columns that share a scale; the last block of a row may be shorter
  bool has_offsets = false;

  int64_t blocks(int64_t columns) const { return (columns + block - 1) / block; }
  bool operator==(const CodeLayout&) const = default;
};

/// Where codes and factors of some rows are written.
struct CodeRows {
  std::span<int8_t> codes;                ///< rows x columns
  std::span<float> scales, offsets;       ///< rows x blocks; no offsets where the layout has none
};

/// Implemented by a TensorSource that can give the codes of its tensors. Thread-safe for reading.
class IntegerCodes {
 public:
  virtual ~IntegerCodes() = default;
  /// nullopt for a tensor whose values are not of this form.
  virtual std::optional<CodeLayout> code_layout(std::string_view name) const = 0;
  /// Rows [first_row, first_row + rows) of a matrix that has a layout.
  virtual void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const = 0;
};

}  // namespace overproof
