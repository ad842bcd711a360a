#include "formats/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace overproof {
namespace {

constexpr int64_t kGgufAlignment = 32;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t(text.size()));
  out += text;
}

int64_t padding(int64_t bytes) { return (kGgufAlignment - bytes % kGgufAlignment) % kGgufAlignment; }

}  // namespace

void GgufMetadata::begin(std::string_view key, GgufType type) {
  OVERPROOF_CHECK(!key.empty() && keys_.emplace(key).second);
  put_string(bytes_, key);
  put(bytes_, uint32_t(type));
}

void GgufMetadata::begin_array(std::string_view key, GgufType type, size_t count) {
  begin(key, GgufType::array);
  put(bytes_, uint32_t(type));
  put(bytes_, uint64_t(count));
}

void GgufMetadata::add_text(std::string_view key, std::string_view value) {
  begin(key, GgufType::string);
  put_string(bytes_, value);
}

void GgufMetadata::add_u32(std::string_view key, int64_t value) {
  if (value < 0 || value > int64_t(UINT32_MAX))
    throw MismatchError(fmt::format("GGUF cannot hold this model: key '{}' would be {}, and has 32 bits", key, value));
  begin(key, GgufType::u32);
  put(bytes_, uint32_t(value));
}

void GgufMetadata::add_i32(std::string_view key, int64_t value) {
  if (value < INT32_MIN || value > INT32_MAX)
    throw MismatchError(fmt::format("GGUF cannot hold this model: key '{}' would be {}, and has 32 bits", key, value));
  begin(key, GgufType::i32);
  put(bytes_, int32_t(value));
}

void GgufMetadata::add_f32(std::string_view key, double value) {
  begin(key, GgufType::f32);
  put(bytes_, float(value));
}

void GgufMetadata::add_bool(std::string_view key, bool value) {
  begin(key, GgufType::boolean);
  put(bytes_, uint8_t(value));
}

void GgufMetadata::add_texts(std::string_view key, const std::vector<std::string>& values) {
  begin_array(key, GgufType::string, values.size());
  for (const std::string& value : values) put_string(bytes_, value);
}

void GgufMetadata::add_f32s(std::string_view key, const std::vector<float>& values) {
  begin_array(key, GgufType::f32, values.size());
  for (const float value : values) put(bytes_, value);
}

void GgufMetadata::add_i32s(std::string_view key, const std::vector<int32_t>& values) {
  begin_array(key, GgufType::i32, values.size());
  for (const int32_t value : values) put(bytes_, value);
}

void GgufMetadata::add_copy(std::string_view key, const GgufValue& value) {
  if (value.is_array) begin_array(key, value.type, size_t(value.count));
  else begin(key, value.type);
  bytes_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

int64_t GgufTensorInfo::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;  // of tensors that were read, so it fits
  return n;
}

int64_t GgufTensorInfo::row_bytes() const {
  const GgmlLayout layout = ggml_layout(type);
  return shape.back() / layout.block_values * layout.block_bytes;
}

int64_t GgufTensorInfo::bytes() const { return elements() / shape.back() * row_bytes(); }

GgufWriter::GgufWriter(OutputFolder& folder, const std::string& name, const GgufMetadata& metadata,
                       std::vector<GgufTensorInfo> tensors)
    : folder_(folder), file_(folder.open(name)), tensors_(std::move(tensors)) {
  std::string head = "GGUF";
  put(head, uint32_t(3));
  put(head, uint64_t(tensors_.size()));
  put(head, uint64_t(metadata.count()));
  head += metadata.bytes();
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const GgufTensorInfo& t : tensors_) {
    OVERPROOF_CHECK(!t.shape.empty() && t.shape.size() <= 4 && names.insert(t.name).second);
    OVERPROOF_CHECK(std::ranges::all_of(t.shape, [](int64_t d) { return d > 0; }) &&
                    t.shape.back() % ggml_layout(t.type).block_values == 0);
    put_string(head, t.name);
    put(head, uint32_t(t.shape.size()));
    for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d) put(head, uint64_t(*d));  // ggml's ne: fastest first
    put(head, uint32_t(t.type));
    put(head, uint64_t(offset));
    offset += t.bytes() + padding(t.bytes());
  }
  head.resize(head.size() + size_t(padding(int64_t(head.size()))), '\0');
  file_.write(head);
  if (!tensors_.empty()) left_ = tensors_[0].bytes();
}

void GgufWriter::advance(const uint8_t* from, int64_t bytes) {
  static constexpr char kZeros[kGgufAlignment] = {};
  while (bytes > 0) {
    OVERPROOF_CHECK(current_ < tensors_.size());  // more bytes than declared
    const int64_t part = std::min(left_, bytes);
    if (from) {
      file_.write(from, size_t(part));
      from += part;
    } else {
      file_.skip(part);
    }
    bytes -= part;
    left_ -= part;
    if (left_ > 0) break;
    file_.write(kZeros, size_t(padding(tensors_[current_].bytes())));  // passed over where an earlier run wrote them
    if (++current_ < tensors_.size()) left_ = tensors_[current_].bytes();
  }
}

void GgufWriter::close() {
  OVERPROOF_CHECK(current_ == tensors_.size());  // every declared byte has come
  folder_.finish(std::move(file_));
}

}  // namespace overproof
