#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "core/lfs_pointer.h"

namespace overproof {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the reference implementation's limit
constexpr int64_t kAlignment = 64;           // a cache line; more than any dtype needs
constexpr std::string_view kMetadataKey = "__metadata__";

/// A header being checked; knows where in the file to point for each fault.
struct Header {
  const fs::path& file;
  std::string_view text;

  /// The JSON parser keeps no positions, so the place of a tensor's key is searched for; the header itself otherwise.
  [[noreturn]] void refuse(std::string_view key, const std::string& cause) const {
    const size_t at = key.empty() ? std::string_view::npos : text.find(fmt::format("\"{}\"", key));
    throw FormatError(file, kLengthBytes + (at == std::string_view::npos ? 0 : int64_t(at)), cause);
  }

  int64_t dimension(std::string_view name, const Json& v) const {
    if (!v.is_number_unsigned() || v.get<uint64_t>() > uint64_t(INT64_MAX)) {
      refuse(name, fmt::format("tensor '{}': '{}' is not a size", name, v.dump()));
    }
    return int64_t(v.get<uint64_t>());
  }
};

struct Placed {
  TensorInfo info;
  int64_t begin = 0, end = 0;  // from the start of the data
};

Placed parse_tensor(const Header& header, const std::string& name, const Json& entry) {
  const auto refuse = [&](const std::string& cause) { header.refuse(name, fmt::format("tensor '{}': {}", name, cause)); };
  if (!entry.is_object()) refuse("its entry is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") refuse(fmt::format("unknown key '{}'", key));
  }
  if (entry.size() != 3) refuse("needs dtype, shape and data_offsets");
  const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  if (!dtype.is_string()) refuse("dtype is not a string");
  const auto type = dtype_from_name(dtype.get_ref<const std::string&>());
  if (!type) refuse(fmt::format("dtype '{}' is not known", dtype.get_ref<const std::string&>()));
  if (!shape.is_array()) refuse("shape is not an array");
  Placed t{{name, *type, {}}};
  const int64_t bits = dtype_bits(*type);
  std::optional<int64_t> bytes = bits % 8 == 0 ? bits / 8 : 1;  // or elements, where one is smaller than a byte
  bool empty = false;
  for (const Json& d : shape) {
    t.info.shape.push_back(header.dimension(name, d));
    empty |= t.info.shape.back() == 0;
    // [0, 2^62, 2^62] has no elements, yet its partial products overflow, so empty dimensions count as one here.
    if (bytes) bytes = checked_mul(*bytes, std::max(t.info.shape.back(), int64_t{1}));
  }
  if (!bytes) refuse("shape times dtype does not fit into 63 bits");
  if (empty) bytes = 0;
  if (bits % 8 != 0) {
    if (*bytes % 8 * bits % 8 != 0) refuse(fmt::format("{} elements of {} bits are no whole number of bytes", *bytes, bits));
    bytes = *bytes / 8 * bits + *bytes % 8 * bits / 8;
  }
  if (!offsets.is_array() || offsets.size() != 2) refuse("data_offsets is not a pair");
  t.begin = header.dimension(name, offsets[0]);
  t.end = header.dimension(name, offsets[1]);
  if (t.begin > t.end) refuse("data_offsets end before they begin");
  if (t.end - t.begin != *bytes) {
    refuse(fmt::format("shape and dtype need {} bytes, data_offsets give {}", *bytes, t.end - t.begin));
  }
  return t;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& file, Reads reads) : file_(file, reads) {
  const std::span<const uint8_t> all = file_.bytes();
  refuse_lfs_pointer({reinterpret_cast<const char*>(all.data()), all.size()}, file);
  if (file_.size() < kLengthBytes) throw FormatError(file, file_.size(), "ends inside the header's length");
  uint64_t length = 0;
  std::memcpy(&length, all.data(), sizeof length);
  if (length > uint64_t(kMaxHeader)) {
    throw FormatError(file, 0, fmt::format("header length {} is over the limit of {} bytes", length, kMaxHeader));
  }
  if (int64_t(length) > file_.size() - kLengthBytes) {
    throw FormatError(file, 0, fmt::format("header length {} is larger than the file", length));
  }
  const std::string_view text(reinterpret_cast<const char*>(all.data()) + kLengthBytes, size_t(length));
  if (text.empty() || text.front() != '{') throw FormatError(file, kLengthBytes, "the header does not begin with '{'");
  const Json json = parse_json(text, file, kLengthBytes);
  const Header header{file, text};

  std::vector<Placed> placed;
  for (const auto& [name, entry] : json.items()) {
    if (name != kMetadataKey) {
      placed.push_back(parse_tensor(header, name, entry));
      continue;
    }
    if (!entry.is_object()) header.refuse(kMetadataKey, "__metadata__ is not an object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) header.refuse(key, fmt::format("__metadata__ '{}' is not a string", key));
      metadata_.emplace(key, value.get<std::string>());
    }
  }

  // Names are sorted already, so equal places (empty tensors) keep a defined order.
  std::stable_sort(placed.begin(), placed.end(),
                   [](const Placed& a, const Placed& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const std::span<const uint8_t> data = all.subspan(size_t(kLengthBytes) + size_t(length));
  int64_t expected = 0;
  for (Placed& t : placed) {
    if (t.begin != expected) {
      header.refuse(
          t.info.name,
          fmt::format("tensor '{}' begins at byte {} of the data, {} byte {}", t.info.name, t.begin,
                      t.begin < expected ? "overlapping the one before, which ends at" : "leaving a gap after", expected));
    }
    if (t.end > int64_t(data.size())) {
      header.refuse(t.info.name,
                    fmt::format("tensor '{}' ends at byte {} of the data, which has {}", t.info.name, t.end, data.size()));
    }
    expected = t.end;
    by_name_.emplace(t.info.name, tensors_.size());
    data_.push_back(data.subspan(size_t(t.begin), size_t(t.end - t.begin)));
    tensors_.push_back(std::move(t.info));
  }
  if (expected != int64_t(data.size())) {
    throw FormatError(file, kLengthBytes + int64_t(length) + expected,
                      fmt::format("{} bytes follow the last tensor", int64_t(data.size()) - expected));
  }
}

bool SafetensorsFile::contains(std::string_view name) const { return by_name_.find(name) != by_name_.end(); }

size_t SafetensorsFile::index(std::string_view name) const {
  const auto i = by_name_.find(name);
  if (i == by_name_.end()) throw FormatError(path(), -1, fmt::format("has no tensor '{}'", name));
  return i->second;
}

const TensorInfo& SafetensorsFile::info(std::string_view name) const { return tensors_[index(name)]; }

int64_t SafetensorsFile::offset(std::string_view name) const { return bytes(name).data() - file_.bytes().data(); }

std::span<const uint8_t> SafetensorsFile::bytes(std::string_view name) const { return data_[index(name)]; }

const void* SafetensorsFile::aligned(std::string_view name, size_t element_bytes, size_t alignment) const {
  const size_t i = index(name);
  if (size_t(dtype_bits(tensors_[i].dtype)) != 8 * element_bytes) {
    throw FormatError(path(), -1,
                      fmt::format("tensor '{}' is {}, where elements of {} bytes are needed", name, dtype_name(tensors_[i].dtype),
                                  element_bytes));
  }
  const uint8_t* p = data_[i].data();
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) {
    throw FormatError(path(), p - file_.bytes().data(), fmt::format("tensor '{}' is not aligned to {} bytes", name, alignment));
  }
  return p;
}

void require_tensor(const SafetensorsFile& file, const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  const TensorInfo& info = file.info(name);
  if (info.dtype != dtype || info.shape != shape)
    throw FormatError(file.path(), file.offset(name), fmt::format("'{}' is not {} [{}]", name, dtype_name(dtype), fmt::join(shape, ", ")));
}

SafetensorsWriter::SafetensorsWriter(OutputFolder& folder, std::string name, std::vector<TensorInfo> tensors,
                                     const Metadata& metadata)
    : folder_(folder), file_(folder.open(name)), tensors_(std::move(tensors)) {
  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadataKey)] = metadata;
  int64_t offset = 0;
  for (const TensorInfo& t : tensors_) {
    OVERPROOF_CHECK(t.name != kMetadataKey && !header.contains(t.name));
    const int64_t end = offset + t.bytes();
    header[t.name] = {{"dtype", dtype_name(t.dtype)}, {"shape", t.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes + kAlignment - 1) / kAlignment * kAlignment - kLengthBytes, ' ');
  OVERPROOF_CHECK(int64_t(text.size()) <= kMaxHeader);
  const uint64_t length = text.size();
  file_.write(&length, sizeof length);
  file_.write(text);
  left_ = tensors_.empty() ? 0 : tensors_[0].bytes();
  skip_finished();
}

/// Advances to the next tensor with missing bytes.
void SafetensorsWriter::skip_finished() {
  while (left_ == 0 && current_ < tensors_.size()) {
    if (++current_ < tensors_.size()) left_ = tensors_[current_].bytes();
  }
}

void SafetensorsWriter::append(const void* data, size_t bytes) {
  file_.write(data, bytes);
  count(int64_t(bytes));
}

void SafetensorsWriter::skip(int64_t bytes) {
  file_.skip(bytes);
  count(bytes);
}

void SafetensorsWriter::count(int64_t bytes) {
  while (bytes > 0) {
    OVERPROOF_CHECK(current_ < tensors_.size());  // more bytes than declared
    const int64_t part = std::min(left_, bytes);
    left_ -= part;
    bytes -= part;
    skip_finished();
  }
}

void SafetensorsWriter::append_f32(std::span<const float> values) {
  if (values.empty()) return;
  OVERPROOF_CHECK(current_ < tensors_.size());
  const DType dtype = tensors_[current_].dtype;
  OVERPROOF_CHECK(int64_t(values.size()) * dtype_bytes(dtype) <= left_);
  if (dtype == DType::f32) return append(values.data(), values.size_bytes());
  std::vector<uint8_t> narrow(std::min(values.size(), size_t{1} << 16) * size_t(dtype_bytes(dtype)));
  while (!values.empty()) {
    const size_t n = std::min(values.size(), size_t{1} << 16);
    f32_to_elements(dtype, values.first(n), narrow.data());
    append(narrow.data(), n * size_t(dtype_bytes(dtype)));
    values = values.subspan(n);
  }
}

void SafetensorsWriter::close() {
  OVERPROOF_CHECK(current_ == tensors_.size());  // every declared byte has come
  folder_.finish(std::move(file_));
}

}  // namespace overproof
