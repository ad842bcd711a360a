#pragma once
// Writes GGUF version 3 (layout: formats/gguf.h), streaming: keys and tensors are declared first, then the tensors' bytes are
// written in that order. Every tensor, including the last, is padded to 32 bytes with zeros: ggml reads whole padded tensors.

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "formats/gguf.h"
#include "formats/tensor_sink.h"

namespace overproof {

/// Keys and values in the order in which they are added. Adding a key twice is a bug of the caller.
class GgufMetadata {
 public:
  void add_text(std::string_view key, std::string_view value);
  void add_u32(std::string_view key, int64_t value);  ///< throws MismatchError naming the key when it is outside [0, 2^32)
  void add_i32(std::string_view key, int64_t value);  ///< the same outside [-2^31, 2^31)
  void add_f32(std::string_view key, double value);
  void add_bool(std::string_view key, bool value);
  void add_texts(std::string_view key, const std::vector<std::string>& values);
  void add_f32s(std::string_view key, const std::vector<float>& values);
  void add_i32s(std::string_view key, const std::vector<int32_t>& values);
  /// A value of another file, byte for byte.
  void add_copy(std::string_view key, const GgufValue& value);
  bool has(std::string_view key) const { return keys_.contains(key); }
  int64_t count() const { return int64_t(keys_.size()); }
  const std::string& bytes() const { return bytes_; }  ///< as in the file

 private:
  void begin(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType type, size_t count);
  std::set<std::string, std::less<>> keys_;
  std::string bytes_;
};

struct GgufTensorInfo {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<int64_t> shape;  ///< row-major, slowest first; 1 to 4 dimensions; the last is a multiple of the type's block
  int64_t elements() const;
  int64_t row_bytes() const;  ///< of one row (the last dimension)
  int64_t bytes() const;
};

/// Throws IoError. Without close() no file is left.
class GgufWriter final : public TensorSink {
 public:
  GgufWriter(OutputFolder& folder, const std::string& name, const GgufMetadata& metadata, std::vector<GgufTensorInfo> tensors);
  void append(std::span<const uint8_t> bytes) override { advance(bytes.data(), int64_t(bytes.size())); }
  void append(const void* data, size_t bytes) { append({static_cast<const uint8_t*>(data), bytes}); }
  void skip(int64_t bytes) override { advance(nullptr, bytes); }
  std::vector<FileRecord> sync() override { return {file_.sync()}; }
  /// The tensor that the next byte belongs to; nullptr when all are written.
  const GgufTensorInfo* current() const { return current_ < tensors_.size() ? &tensors_[current_] : nullptr; }
  /// All declared bytes must have been written. Passes the file's record to the folder.
  void close() override;

 private:
  void advance(const uint8_t* from, int64_t bytes);  // null: passes over them
  OutputFolder& folder_;
  OutputFile file_;
  std::vector<GgufTensorInfo> tensors_;
  size_t current_ = 0;
  int64_t left_ = 0;  // bytes still missing in tensors_[current_]
};

}  // namespace overproof
