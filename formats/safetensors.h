#pragma once
// safetensors: 8-byte little-endian header length, JSON header, raw little-endian tensor bytes.
// Format: https://github.com/huggingface/safetensors#format

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "formats/tensor_source.h"

namespace overproof {

using Metadata = std::map<std::string, std::string>;

/// One .safetensors file, mapped. The header is checked whole before anything is used: sizes, overflow, overlaps, gaps,
/// duplicate keys, dtype x shape = bytes. Throws FormatError with file and offset.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& file, Reads reads = Reads::onwards);
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  ///< in the order of their bytes
  const Metadata& metadata() const { return metadata_; }
  bool contains(std::string_view name) const;
  const TensorInfo& info(std::string_view name) const;          ///< throws FormatError when missing
  std::span<const uint8_t> bytes(std::string_view name) const;  ///< points into the map
  int64_t offset(std::string_view name) const;                  ///< of the tensor's bytes, from the start of the file
  /// The tensor's elements in place. T's size must be the dtype's; throws FormatError otherwise or when unaligned.
  template <class T>
  std::span<const T> values(std::string_view name) const {
    return {static_cast<const T*>(aligned(name, sizeof(T), alignof(T))), size_t(info(name).elements())};
  }
  const fs::path& path() const { return file_.path(); }

 private:
  const void* aligned(std::string_view name, size_t element_bytes, size_t alignment) const;
  size_t index(std::string_view name) const;
  MappedFile file_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::span<const uint8_t>> data_;
  std::map<std::string, size_t, std::less<>> by_name_;
  Metadata metadata_;
};

/// Throws FormatError with the tensor's offset unless `file` holds it with this type and shape.
void require_tensor(const SafetensorsFile& file, const std::string& name, DType dtype, const std::vector<int64_t>& shape);

/// Streams one .safetensors file: all tensors are declared first, then their bytes are appended in that order, in
/// pieces of any size. Data is aligned to 64 bytes by padding the header; the format allows no gap
/// between tensors, so declare those of wide types before those of odd length. Throws IoError.
class SafetensorsWriter {
 public:
  SafetensorsWriter(OutputFolder& folder, std::string name, std::vector<TensorInfo> tensors, const Metadata& metadata = {});
  void append(const void* data, size_t bytes);
  /// f32 values converted to the dtype of the tensor they fall in (f32, f16, bf16), never across a tensor's end.
  void append_f32(std::span<const float> values);
  /// Passes over bytes that an earlier run has written; OutputFile::skip.
  void skip(int64_t bytes);
  /// OutputFile::sync.
  FileRecord sync() { return file_.sync(); }
  /// All declared bytes must have been written. Passes the file's record to the folder.
  void close();

 private:
  void count(int64_t bytes);
  void skip_finished();
  OutputFolder& folder_;
  OutputFile file_;
  std::vector<TensorInfo> tensors_;
  size_t current_ = 0;
  int64_t left_ = 0;  // bytes still missing in tensors_[current_]
};

}  // namespace overproof
