#pragma once
// GGUF versions 2 and 3 (little-endian), read from a map.
//
//   "GGUF", u32 version, u64 tensors, u64 keys
//   keys x { string key, u32 type, value }          string: u64 length, bytes; array: u32 type, u64 count, values
//   tensors x { string name, u32 n, u64 ne[n], u32 ggml type, u64 offset }
//   padding to general.alignment (32), then the tensors' data, each padded to the alignment
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "formats/ggml_blocks.h"

namespace overproof {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// A metadata value as stored in the file; checked, not yet decoded.
struct GgufValue {
  GgufType type;  ///< of the value, or of an array's elements
  bool is_array = false;
  int64_t count = 1;
  std::span<const uint8_t> bytes;  ///< of the value or the elements, without array type and count
};

struct GgufTensor {
  std::string name;
  GgmlType type;
  std::vector<int64_t> shape;  ///< row-major, slowest first: ggml's ne reversed
  std::span<const uint8_t> data;
  int64_t elements() const;
};

/// A GGUF file, checked whole when opened: bounds, overflow, duplicate keys and names, alignment, tensors laid out without
/// gap or overlap as every writer does. Arrays of arrays are refused. Throws FormatError with file and offset.
class GgufFile {
 public:
  explicit GgufFile(const fs::path& file);
  const fs::path& path() const { return file_.path(); }
  std::span<const uint8_t> bytes() const { return file_.bytes(); }
  int64_t version() const { return version_; }
  int64_t alignment() const { return alignment_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(std::string_view name) const;  ///< nullptr when there is none

  /// Keys in the order of the file.
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  const GgufValue* value(std::string_view key) const;  ///< nullptr when there is none
  bool has(std::string_view key) const { return value(key) != nullptr; }

  // Decoded values. Integers of any width that fit; numbers of any type. Without a fallback a missing key is a FormatError;
  // a key of another type always is.
  std::string text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t fallback) const;
  double number(std::string_view key) const;
  double number(std::string_view key, double fallback) const;
  bool boolean(std::string_view key) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::vector<std::string> texts(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;

 private:
  const GgufValue& required(std::string_view key, bool array) const;
  [[noreturn]] void mistyped(std::string_view key, const GgufValue& v, std::string_view wanted) const;
  MappedFile file_;
  int64_t version_ = 0;
  int64_t alignment_ = 32;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::map<std::string, size_t, std::less<>> keys_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> names_;
};

}  // namespace overproof
