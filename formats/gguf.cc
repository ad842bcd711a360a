#include "formats/gguf.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/lfs_pointer.h"

namespace overproof {
namespace {

constexpr int64_t kMaxKeyBytes = 65535;  // the specification's limit
constexpr int64_t kMaxDimensions = 4;    // GGML_MAX_DIMS
constexpr int64_t kMinKeyBytes = 8 + 1 + 4 + 1, kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

/// Bytes of one value; 0 for those without a fixed size.
int64_t fixed_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

/// Walks the head of the file; every step is checked against its end.
class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file) {}
  int64_t position() const { return at_; }
  int64_t left() const { return file_.size() - at_; }
  [[noreturn]] void refuse(int64_t at, const std::string& cause) const { throw FormatError(file_.path(), at, cause); }

  std::span<const uint8_t> take(int64_t bytes, std::string_view what) {
    if (bytes > left()) refuse(at_, fmt::format("the file ends inside {}", what));
    const auto part = file_.bytes().subspan(size_t(at_), size_t(bytes));
    at_ += bytes;
    return part;
  }

  template <class T>
  T scalar(std::string_view what) {
    T v;
    std::memcpy(&v, take(sizeof v, what).data(), sizeof v);
    return v;
  }

  /// A u64 count of items of at least `each` bytes that follow in the file.
  int64_t count(std::string_view what, int64_t each) {
    const int64_t at = at_;
    const auto n = scalar<uint64_t>(what);
    if (n > uint64_t(left() / each)) refuse(at, fmt::format("{} is {}, more than the file can contain", what, n));
    return int64_t(n);
  }

  std::string_view string(std::string_view what) {
    const auto bytes = take(count(what, 1), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  std::string name(std::string_view what) {
    const int64_t at = at_;
    const std::string_view s = string(what);
    if (s.empty() || int64_t(s.size()) > kMaxKeyBytes) refuse(at, fmt::format("{} has {} bytes", what, s.size()));
    return std::string(s);
  }

  GgufType type(std::string_view what) {
    const int64_t at = at_;
    const auto t = scalar<uint32_t>(what);
    if (t > uint32_t(GgufType::f64)) refuse(at, fmt::format("{} is {}, which is not a GGUF type", what, t));
    return GgufType(t);
  }

  GgufValue value(const std::string& key) {
    GgufValue v{type("a value's type"), false, 1, {}};
    if (v.type == GgufType::array) {
      const int64_t at = at_;
      v.is_array = true;
      v.type = type("an array's type");
      if (v.type == GgufType::array) refuse(at, fmt::format("'{}' is an array of arrays", key));
      v.count = count("an array's length", v.type == GgufType::string ? 8 : fixed_bytes(v.type));
    }
    const int64_t begin = at_;
    if (v.type == GgufType::string) {
      for (int64_t i = 0; i < v.count; ++i) string("a string");
    } else {
      take(v.count * fixed_bytes(v.type), "a value");
    }
    v.bytes = file_.bytes().subspan(size_t(begin), size_t(at_ - begin));
    if (v.type == GgufType::boolean) {
      for (const uint8_t b : v.bytes) {
        if (b > 1) refuse(begin, fmt::format("'{}' is a bool of value {}", key, b));
      }
    }
    return v;
  }

 private:
  const MappedFile& file_;
  int64_t at_ = 0;
};

template <class T>
T decode(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// Nothing when the value is no integer or does not fit.
std::optional<int64_t> decode_integer(GgufType type, const uint8_t* p) {
  switch (type) {
    case GgufType::u8:
      return *p;
    case GgufType::i8:
      return decode<int8_t>(p);
    case GgufType::u16:
      return decode<uint16_t>(p);
    case GgufType::i16:
      return decode<int16_t>(p);
    case GgufType::u32:
      return decode<uint32_t>(p);
    case GgufType::i32:
      return decode<int32_t>(p);
    case GgufType::i64:
      return decode<int64_t>(p);
    case GgufType::u64:
      if (decode<uint64_t>(p) > uint64_t(INT64_MAX)) return std::nullopt;
      return int64_t(decode<uint64_t>(p));
    default:
      return std::nullopt;
  }
}

std::optional<double> decode_number(GgufType type, const uint8_t* p) {
  if (type == GgufType::f32) return decode<float>(p);
  if (type == GgufType::f64) return decode<double>(p);
  const auto i = decode_integer(type, p);
  if (!i) return std::nullopt;
  return double(*i);
}

struct Extent {
  std::vector<int64_t> shape;
  GgmlType type;
  int64_t bytes;
};

Extent read_extent(Reader& in, const std::string& name) {
  const int64_t at = in.position();
  const auto dimensions = in.scalar<uint32_t>("a tensor's number of dimensions");
  if (dimensions < 1 || dimensions > kMaxDimensions)
    in.refuse(at, fmt::format("tensor '{}' has {} dimensions", name, dimensions));
  Extent e{std::vector<int64_t>(dimensions), GgmlType::f32, 0};
  std::optional<int64_t> elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto d = in.scalar<uint64_t>("a tensor's shape");
    if (d < 1 || d > uint64_t(INT64_MAX)) in.refuse(at, fmt::format("tensor '{}' has a dimension of {}", name, d));
    e.shape[dimensions - 1 - i] = int64_t(d);
    if (elements) elements = checked_mul(*elements, int64_t(d));
  }
  const int64_t type_at = in.position();
  const auto type = in.scalar<uint32_t>("a tensor's type");
  const auto layout = ggml_layout(type);
  if (!layout) {
    in.refuse(type_at, fmt::format("tensor '{}' has ggml type {}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and "
                                   "Q6_K can be read",
                                   name, type));
  }
  e.type = GgmlType(type);
  if (e.shape.back() % layout->block_values != 0) {
    in.refuse(at, fmt::format("tensor '{}' has rows of {} values, not a multiple of {}'s {}", name, e.shape.back(), layout->name,
                              layout->block_values));
  }
  const auto bytes = elements ? checked_mul(*elements / layout->block_values, layout->block_bytes) : std::nullopt;
  if (!bytes) in.refuse(at, fmt::format("tensor '{}': the shape does not fit into 63 bits", name));
  e.bytes = *bytes;
  return e;
}

}  // namespace

int64_t GgufTensor::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

GgufFile::GgufFile(const fs::path& file) : file_(file) {
  Reader in(file_);
  refuse_lfs_pointer({reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()}, file);
  const auto magic = in.take(4, "the magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) in.refuse(0, "does not begin with 'GGUF'");
  version_ = in.scalar<uint32_t>("the version");
  if ((version_ & 0xffff) == 0) in.refuse(4, "is a big-endian GGUF file, which is not supported");
  if (version_ != 2 && version_ != 3) in.refuse(4, fmt::format("is GGUF version {}; 2 and 3 can be read", version_));
  const int64_t tensor_count = in.count("the number of tensors", kMinTensorBytes);
  const int64_t key_count = in.count("the number of keys", kMinKeyBytes);

  for (int64_t i = 0; i < key_count; ++i) {
    const int64_t at = in.position();
    std::string key = in.name("a key");
    const GgufValue v = in.value(key);
    if (!keys_.emplace(key, metadata_.size()).second) in.refuse(at, fmt::format("duplicate key '{}'", key));
    metadata_.emplace_back(std::move(key), v);
  }
  if (const GgufValue* v = value("general.alignment")) {
    alignment_ = integer("general.alignment");
    if (v->type != GgufType::u32 || alignment_ == 0 || (alignment_ & (alignment_ - 1)) != 0) {
      in.refuse(v->bytes.data() - file_.bytes().data(),
                fmt::format("general.alignment is {}, not a power of two in 32 bits", alignment_));
    }
  }

  struct Place {
    int64_t at, offset, bytes;
  };
  std::vector<Place> places;
  for (int64_t i = 0; i < tensor_count; ++i) {
    const int64_t at = in.position();
    std::string name = in.name("a tensor's name");
    Extent e = read_extent(in, name);
    const auto offset = in.scalar<uint64_t>("a tensor's offset");
    if (offset > uint64_t(file_.size())) in.refuse(at, fmt::format("tensor '{}' begins after the end of the file", name));
    if (!names_.emplace(name, tensors_.size()).second) in.refuse(at, fmt::format("duplicate tensor '{}'", name));
    places.push_back({at, int64_t(offset), e.bytes});
    tensors_.push_back({std::move(name), e.type, std::move(e.shape), {}});
  }

  const auto padded = [&](int64_t n) { return (n + alignment_ - 1) & ~(alignment_ - 1); };  // n is at most a file's size
  const int64_t data = padded(in.position());
  int64_t expected = 0;  // every writer lays the tensors out in order, each padded: anything else overlaps or hides bytes
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& t = tensors_[i];
    if (places[i].offset != expected) {
      in.refuse(places[i].at,
                fmt::format("tensor '{}' begins at {} of the data, where {} is due: the tensors overlap or leave a gap", t.name,
                            places[i].offset, expected));
    }
    if (data > file_.size() || expected > file_.size() - data || places[i].bytes > file_.size() - data - expected) {
      in.refuse(places[i].at, fmt::format("the file ends inside the data of tensor '{}'", t.name));
    }
    t.data = file_.bytes().subspan(size_t(data + expected), size_t(places[i].bytes));
    expected = padded(expected + places[i].bytes);
  }
  if (file_.size() > data + expected) in.refuse(data + expected, "bytes follow the last tensor");
  // Some writers omit the padding of the last tensor; a partial padding means that the file was truncated.
  if (tensors_.empty() || file_.size() == data + expected) return;
  const std::span<const uint8_t> last = tensors_.back().data;
  if (file_.bytes().data() + file_.size() != last.data() + last.size())
    in.refuse(file_.size(), "the file ends inside the last tensor's padding");
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto i = names_.find(name);
  return i == names_.end() ? nullptr : &tensors_[i->second];
}

const GgufValue* GgufFile::value(std::string_view key) const {
  const auto i = keys_.find(key);
  return i == keys_.end() ? nullptr : &metadata_[i->second].second;
}

const GgufValue& GgufFile::required(std::string_view key, bool array) const {
  const GgufValue* v = value(key);
  if (!v) throw FormatError(path(), -1, fmt::format("has no key '{}'", key));
  if (v->is_array != array) mistyped(key, *v, array ? "an array" : "one value");
  return *v;
}

void GgufFile::mistyped(std::string_view key, const GgufValue& v, std::string_view wanted) const {
  throw FormatError(path(), v.bytes.data() - file_.bytes().data(), fmt::format("'{}' is not {}", key, wanted));
}

std::string GgufFile::text(std::string_view key) const {
  const GgufValue& v = required(key, false);
  if (v.type != GgufType::string) mistyped(key, v, "a string");
  return {reinterpret_cast<const char*>(v.bytes.data()) + 8, v.bytes.size() - 8};
}

int64_t GgufFile::integer(std::string_view key) const {
  const GgufValue& v = required(key, false);
  const auto i = decode_integer(v.type, v.bytes.data());
  if (!i) mistyped(key, v, "an integer of 63 bits");
  return *i;
}

double GgufFile::number(std::string_view key) const {
  const GgufValue& v = required(key, false);
  const auto x = decode_number(v.type, v.bytes.data());
  if (!x) mistyped(key, v, "a number");
  return *x;
}

bool GgufFile::boolean(std::string_view key) const {
  const GgufValue& v = required(key, false);
  if (v.type != GgufType::boolean) mistyped(key, v, "a bool");
  return v.bytes[0] != 0;
}

std::string GgufFile::text(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : std::string(fallback);
}
int64_t GgufFile::integer(std::string_view key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }
double GgufFile::number(std::string_view key, double fallback) const { return has(key) ? number(key) : fallback; }
bool GgufFile::boolean(std::string_view key, bool fallback) const { return has(key) ? boolean(key) : fallback; }

std::vector<std::string> GgufFile::texts(std::string_view key) const {
  const GgufValue& v = required(key, true);
  if (v.type != GgufType::string) mistyped(key, v, "an array of strings");
  std::vector<std::string> out;
  out.reserve(size_t(v.count));
  for (const uint8_t* p = v.bytes.data(); int64_t(out.size()) < v.count;) {
    const auto n = decode<uint64_t>(p);
    out.emplace_back(reinterpret_cast<const char*>(p) + 8, size_t(n));
    p += 8 + n;
  }
  return out;
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue& v = required(key, true);
  std::vector<int64_t> out;
  out.reserve(size_t(v.count));
  for (int64_t i = 0; i < v.count; ++i) {
    const auto x = decode_integer(v.type, v.bytes.data() + i * fixed_bytes(v.type));
    if (!x) mistyped(key, v, "an array of integers of 63 bits");
    out.push_back(*x);
  }
  return out;
}

std::vector<double> GgufFile::numbers(std::string_view key) const {
  const GgufValue& v = required(key, true);
  std::vector<double> out;
  out.reserve(size_t(v.count));
  for (int64_t i = 0; i < v.count; ++i) {
    const auto x = decode_number(v.type, v.bytes.data() + i * fixed_bytes(v.type));
    if (!x) mistyped(key, v, "an array of numbers");
    out.push_back(*x);
  }
  return out;
}

}  // namespace overproof
