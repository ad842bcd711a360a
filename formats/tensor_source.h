#pragma once
// A model checkpoint as named tensors, independent of its container format. Names and shapes follow Hugging Face's
// convention ("model.layers.0.mlp.down_proj.weight", row-major), also for GGUF.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

/// Element types of safetensors, with its spelling in dtype_name().
enum class DType : uint8_t {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64,
  f8_e4m3fnuz,
  f8_e5m2fnuz,  ///< as on AMD GPUs: one more in the exponent's bias, no negative zero, 0x80 is the only NaN
  f8_e8m0,      ///< powers of two: scales of the OCP MX formats
  // Readable as bytes only:
  c64,      ///< complex of two f32
  f4,       ///< two elements a byte; which of its formats is meant is not stated
  f6_e2m3,  ///< four elements in three bytes
  f6_e3m2
};
int64_t dtype_bits(DType dtype);   ///< of one element
int64_t dtype_bytes(DType dtype);  ///< of one element, for types of whole bytes
bool has_values(DType dtype);      ///< whether elements_to_f32 reads them
std::string_view dtype_name(DType dtype);  ///< "BF16"
std::optional<DType> dtype_from_name(std::string_view name);
/// out.size() little-endian elements of `dtype` at `from`, which need not be aligned, as f32. Integers are rounded to nearest.
/// Only where has_values(dtype).
void elements_to_f32(DType dtype, const uint8_t* from, std::span<float> out);
/// The inverse, for f32, f16 and bf16 only: rounded to nearest, ties to even. `to` takes values.size() elements, unaligned.
void f32_to_elements(DType dtype, std::span<const float> values, uint8_t* to);

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;  ///< as stored; a quantised GGUF or packed tensor reports f32
  std::vector<int64_t> shape;
  int64_t elements() const;      ///< product of shape; 1 for a scalar
  int64_t row_elements() const;  ///< product of all dimensions but the first; 1 for a scalar or a vector
  int64_t bytes() const { return bytes_of(elements()); }
  int64_t row_bytes() const { return bytes_of(row_elements()); }
  bool operator==(const TensorInfo&) const = default;

 private:
  int64_t bytes_of(int64_t count) const { return count / 8 * dtype_bits(dtype) + count % 8 * dtype_bits(dtype) / 8; }
};

/// Where a tensor's rows are on disk, for streaming reads that bypass the map.
struct RowExtent {
  int file = 0;           ///< in TensorSource::files()
  int64_t offset = 0;     ///< of row 0, from the start of that file
  int64_t row_bytes = 0;  ///< as stored
  int64_t row_unit = 1;   ///< rows are stored in another order within units of this many, so whole units must be read
};

/// Read-only tensors of a checkpoint. Thread-safe for reading.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// nullptr when there is none of that name.
  virtual const TensorInfo* find(std::string_view name) const;
  /// Rows [first_row, first_row + rows) of the first dimension, dequantised to f32. A 1-D tensor has rows of one element.
  /// out.size() must be rows x elements per row. Throws FormatError when `name` is missing.
  virtual void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const = 0;
  std::vector<float> read_all_f32(std::string_view name) const;

  /// The files that contain the tensors' rows; none for computed tensors.
  virtual const std::vector<std::filesystem::path>& files() const;
  /// nullopt when there is no such tensor, or its rows are not stored in one range of a file.
  virtual std::optional<RowExtent> extent(std::string_view name) const;
  /// read_f32 of rows whose bytes the caller has read: `stored` are rows x row_bytes from the extent. first_row and rows are
  /// multiples of row_unit (or end with the tensor).
  virtual void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                           std::span<float> out) const;
};

/// Tensors in order, with look-up by name, for implementations of TensorSource.
class TensorTable {
 public:
  const std::vector<TensorInfo>& list() const { return list_; }
  const TensorInfo* find(std::string_view name) const;
  bool add(TensorInfo info);  ///< false when the name is taken
  size_t index_of(const TensorInfo& tensor) const;  ///< the place in list() of one of its elements
  /// Checks the arguments of a read_f32 and returns the tensor's place in list(). Throws FormatError naming `file`.
  size_t row_range(const std::filesystem::path& file, std::string_view name, int64_t first_row, int64_t rows,
                   std::span<float> out) const;

 private:
  std::vector<TensorInfo> list_;
  std::map<std::string, size_t, std::less<>> index_;
};

class QuantizationConfig;  // formats/quantization_config.h

/// A checkpoint opened for reading.
struct Checkpoint {
  std::filesystem::path path;             ///< the folder or file that was opened
  std::unique_ptr<Json> config;           ///< config.json, or what it would be for a GGUF
  std::unique_ptr<TensorSource> tensors;  ///< quantised weights appear dequantised, as X.weight; stacked experts one by one
  std::unique_ptr<QuantizationConfig> quantization;  ///< null unless config.json has a quantization_config
  Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  ~Checkpoint();
};

/// Opens a folder with config.json and safetensors (sharded or not), a folder with exactly one .gguf, or a .gguf file.
/// Throws IoError when nothing is there, FormatError when the content is invalid.
Checkpoint open_checkpoint(const std::filesystem::path& path);

}  // namespace overproof
