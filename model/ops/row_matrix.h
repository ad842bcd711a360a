#pragma once
// A weight matrix in the form in which a checkpoint stores it.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace overproof::ops {

/// [rows, columns]: numbers of any type, or integer codes with the factors of formats/integer_codes.h,
///   value[r][c] = code[r][c] x scale[r][c / block] (+ offset[r][c / block]),
/// each operation rounded to f32, so that a matrix has one set of values in whatever form it is kept. `block` is a multiple of 16, or
/// all columns. Copies share the memory.
struct RowMatrix {
  at::Tensor values;            ///< the numbers, or the codes (I8)
  at::Tensor scales, offsets;   ///< f32 [rows, blocks]; undefined without codes, offsets also where there are none
  int64_t block = 0;            ///< columns that share a scale

  RowMatrix() = default;
  RowMatrix(at::Tensor numbers) : values(std::move(numbers)) {}  // a plain tensor is one

  bool defined() const { return values.defined(); }
  bool has_codes() const { return scales.defined(); }
  int64_t rows() const { return values.size(0); }
  int64_t columns() const { return values.size(1); }
  int64_t bytes() const;
  /// "f32", "bf16", "f16", "int8" or "int8 in blocks of 32".
  std::string form() const;

  /// The values of the rows `ids` I64 [n] -> [n, columns]; of codes, bf16 and f16 on the CPU in f32.
  at::Tensor row_values(const at::Tensor& ids) const;
};

}  // namespace overproof::ops
