#pragma once
// Puts GGUF files together byte by byte, also wrong ones: for tests and fuzzing. Offsets are laid out as writers do unless set.

#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace overproof::test {

template <class T>
std::string raw(T v) {
  std::string s(sizeof v, '\0');
  std::memcpy(s.data(), &v, sizeof v);
  return s;
}
inline std::string gguf_string(std::string_view s) { return raw(uint64_t(s.size())) + std::string(s); }

struct GgufBuilder {
  struct Tensor {
    std::string name;
    std::vector<uint64_t> ne;  // fastest first
    uint32_t type;
    std::string data;
    std::optional<uint64_t> offset = {};
  };
  uint32_t version = 3;
  uint64_t alignment = 32;
  std::vector<std::string> keys;  // encoded, see key()
  std::vector<Tensor> tensors;
  std::optional<uint64_t> tensor_count, key_count;

  GgufBuilder& key(std::string_view name, GgufType type, std::string_view value) {
    keys.push_back(gguf_string(name) + raw(uint32_t(type)) + std::string(value));
    return *this;
  }
  GgufBuilder& text(std::string_view name, std::string_view value) { return key(name, GgufType::string, gguf_string(value)); }
  GgufBuilder& integer(std::string_view name, uint32_t value) { return key(name, GgufType::u32, raw(value)); }
  GgufBuilder& number(std::string_view name, float value) { return key(name, GgufType::f32, raw(value)); }
  GgufBuilder& boolean(std::string_view name, bool value) { return key(name, GgufType::boolean, raw(uint8_t(value))); }
  GgufBuilder& array(std::string_view name, GgufType type, uint64_t count, std::string_view values) {
    return key(name, GgufType::array, raw(uint32_t(type)) + raw(count) + std::string(values));
  }
  /// `values` in row-major order.
  GgufBuilder& f32(std::string_view name, std::vector<uint64_t> ne, const std::vector<float>& values) {
    std::string data(values.size() * 4, '\0');
    std::memcpy(data.data(), values.data(), data.size());
    tensors.push_back({std::string(name), std::move(ne), 0, std::move(data)});
    return *this;
  }

  std::string bytes() const {
    std::string s = "GGUF" + raw(version) + raw(tensor_count.value_or(tensors.size())) + raw(key_count.value_or(keys.size()));
    for (const std::string& k : keys) s += k;
    uint64_t at = 0;
    for (const Tensor& t : tensors) {
      s += gguf_string(t.name) + raw(uint32_t(t.ne.size()));
      for (const uint64_t n : t.ne) s += raw(n);
      s += raw(t.type) + raw(t.offset.value_or(at));
      at += (t.data.size() + alignment - 1) / alignment * alignment;
    }
    for (const Tensor& t : tensors) {
      s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
      s += t.data;
    }
    return s;
  }
};

/// A file with the same content as one that was read: what is accepted must re-encode equal.
inline GgufBuilder re_encode(const GgufFile& file) {
  GgufBuilder b;
  b.version = uint32_t(file.version());
  b.alignment = uint64_t(file.alignment());
  for (const auto& [name, v] : file.metadata()) {
    const std::string_view value(reinterpret_cast<const char*>(v.bytes.data()), v.bytes.size());
    if (v.is_array && v.type == GgufType::string) {
      std::string strings;
      for (const std::string& s : file.texts(name)) strings += gguf_string(s);
      b.array(name, v.type, uint64_t(v.count), strings);
    } else if (v.is_array) {
      b.array(name, v.type, uint64_t(v.count), value);
    } else if (v.type == GgufType::string) {
      b.text(name, file.text(name));
    } else if (v.type == GgufType::boolean) {
      b.key(name, v.type, raw(uint8_t(file.boolean(name))));
    } else if (v.type == GgufType::f32) {
      // A signalling NaN does not survive the way through double; the bits are kept then.
      const auto x = float(file.number(name));
      b.key(name, v.type, x == x ? raw(x) : std::string(value));
    } else {
      b.key(name, v.type, value);
    }
  }
  for (const GgufTensor& t : file.tensors()) {
    b.tensors.push_back({t.name, std::vector<uint64_t>(t.shape.rbegin(), t.shape.rend()), uint32_t(t.type),
                         std::string(reinterpret_cast<const char*>(t.data.data()), t.data.size())});
  }
  return b;
}

inline bool same_content(const GgufFile& a, const GgufFile& b) {
  const auto same_bytes = [](std::span<const uint8_t> x, std::span<const uint8_t> y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size()) == 0);
  };
  if (a.metadata().size() != b.metadata().size() || a.tensors().size() != b.tensors().size()) return false;
  for (size_t i = 0; i < a.metadata().size(); ++i) {
    const auto& [x, v] = a.metadata()[i];
    const auto& [y, w] = b.metadata()[i];
    if (x != y || v.type != w.type || v.is_array != w.is_array || v.count != w.count || !same_bytes(v.bytes, w.bytes))
      return false;
  }
  for (size_t i = 0; i < a.tensors().size(); ++i) {
    const GgufTensor &t = a.tensors()[i], &u = b.tensors()[i];
    if (t.name != u.name || t.type != u.type || t.shape != u.shape || !same_bytes(t.data, u.data)) return false;
  }
  return true;
}

}  // namespace overproof::test
