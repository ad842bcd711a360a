#pragma once
// A scheme says what stands in the output in the place of a Linear weight. Adding one: a class here or beside it, a line
// in find_scheme's table, a row in docs, a test that its result loads in the peer it is made for.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/tensor_source.h"
#include "quantize/int8_cpu.h"

namespace overproof {

class Scheme {
 public:
  virtual ~Scheme() = default;
  virtual std::string_view name() const = 0;

  /// The tensors that replace Linear weight `weight` (shape [out, in]), in the order in which they are written. The first is
  /// streamed row by row; the others are small and are written after it.
  virtual std::vector<TensorInfo> outputs(const TensorInfo& weight) const = 0;

  /// Bytes of one row of the first output.
  virtual int64_t row_bytes(int64_t columns) const = 0;
  /// Values of the scale kept for each row.
  virtual int64_t scales_per_row(int64_t columns) const = 0;

  struct RowResult {
    RowError error;
    bool finite = true;
  };
  /// One row: x [columns] -> bytes [row_bytes], scales [scales_per_row]. Thread-safe, without allocation of row size.
  virtual RowResult quantize_row(std::span<const float> x, std::span<uint8_t> bytes, std::span<float> scales) const = 0;

  /// The little-endian bytes of output `which` (1, 2, ...) of a weight [rows, columns], from the scales of all its rows.
  virtual std::vector<uint8_t> side_output(int which, int64_t rows, int64_t columns, std::span<const float> scales) const = 0;

  /// The group that config.json's quantization_config needs for these weights, and the format's name.
  virtual Json config_group() const = 0;
  virtual std::string_view format() const = 0;
};

/// Throws UsageError with the schemes there are.
std::unique_ptr<Scheme> find_scheme(std::string_view name, Int8Scale clipping);
/// Names for the option's list of choices.
std::vector<std::string> scheme_names();

}  // namespace overproof
