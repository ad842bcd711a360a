#include "formats/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "formats/quantization_config.h"

namespace overproof {
namespace {

template <class T, class Convert>
void convert_each(const uint8_t* from, std::span<float> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    T v;
    std::memcpy(&v, from + i * sizeof(T), sizeof(T));  // tensors may start at any byte
    out[i] = convert(v);
  }
}

template <class T>
void cast_each(const uint8_t* from, std::span<float> out) {
  convert_each<T>(from, out, [](T v) { return static_cast<float>(v); });
}

/// The "finite, no negative zero" 8-bit floats: sign, exponent, `mantissa_bits`.
float fnuz_to_f32(uint8_t v, int mantissa_bits, int bias) {
  if (v == 0x80) return std::numeric_limits<float>::quiet_NaN();
  const int one = 1 << mantissa_bits, mantissa = v & (one - 1), exponent = (v & 0x7f) >> mantissa_bits;
  const int significand = exponent == 0 ? mantissa : one + mantissa;
  const float x = std::ldexp(float(significand), std::max(exponent, 1) - bias - mantissa_bits);
  return v & 0x80 ? -x : x;
}

float e8m0_to_f32(uint8_t v) { return v == 0xff ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, int(v) - 127); }

}  // namespace

int64_t dtype_bits(DType dtype) {
  switch (dtype) {
    case DType::f4:
      return 4;
    case DType::f6_e2m3:
    case DType::f6_e3m2:
      return 6;
    case DType::boolean:
    case DType::u8:
    case DType::i8:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
    case DType::f8_e8m0:
      return 8;
    case DType::i16:
    case DType::u16:
    case DType::f16:
    case DType::bf16:
      return 16;
    case DType::i32:
    case DType::u32:
    case DType::f32:
      return 32;
    case DType::f64:
    case DType::i64:
    case DType::u64:
    case DType::c64:
      return 64;
  }
  return 0;
}

int64_t dtype_bytes(DType dtype) {
  OVERPROOF_CHECK(dtype_bits(dtype) % 8 == 0);
  return dtype_bits(dtype) / 8;
}

bool has_values(DType dtype) { return dtype < DType::c64; }

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::boolean:
      return "BOOL";
    case DType::u8:
      return "U8";
    case DType::i8:
      return "I8";
    case DType::f8_e4m3:
      return "F8_E4M3";
    case DType::f8_e5m2:
      return "F8_E5M2";
    case DType::i16:
      return "I16";
    case DType::u16:
      return "U16";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::i32:
      return "I32";
    case DType::u32:
      return "U32";
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::i64:
      return "I64";
    case DType::u64:
      return "U64";
    case DType::f8_e4m3fnuz:
      return "F8_E4M3FNUZ";
    case DType::f8_e5m2fnuz:
      return "F8_E5M2FNUZ";
    case DType::f8_e8m0:
      return "F8_E8M0";
    case DType::c64:
      return "C64";
    case DType::f4:
      return "F4";
    case DType::f6_e2m3:
      return "F6_E2M3";
    case DType::f6_e3m2:
      return "F6_E3M2";
  }
  return "?";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 0; i <= int(DType::f6_e3m2); ++i) {
    if (dtype_name(DType(i)) == name) return DType(i);
  }
  return std::nullopt;
}

void elements_to_f32(DType dtype, const uint8_t* from, std::span<float> out) {
  switch (dtype) {
    case DType::f32:
      if (!out.empty()) std::memcpy(out.data(), from, out.size_bytes());
      return;
    case DType::bf16:
      convert_each<uint16_t>(from, out, [](uint16_t v) { return bf16_to_f32(v); });
      return;
    case DType::f16:
      convert_each<uint16_t>(from, out, [](uint16_t v) { return f16_to_f32(v); });
      return;
    case DType::f8_e4m3:
      convert_each<uint8_t>(from, out, [](uint8_t v) { return f8_e4m3_to_f32(v); });
      return;
    case DType::f8_e5m2:
      convert_each<uint8_t>(from, out, [](uint8_t v) { return f8_e5m2_to_f32(v); });
      return;
    case DType::f64:
      cast_each<double>(from, out);
      return;
    case DType::boolean:
      convert_each<uint8_t>(from, out, [](uint8_t v) { return v != 0 ? 1.0f : 0.0f; });
      return;
    case DType::u8:
      cast_each<uint8_t>(from, out);
      return;
    case DType::i8:
      cast_each<int8_t>(from, out);
      return;
    case DType::u16:
      cast_each<uint16_t>(from, out);
      return;
    case DType::i16:
      cast_each<int16_t>(from, out);
      return;
    case DType::u32:
      cast_each<uint32_t>(from, out);
      return;
    case DType::i32:
      cast_each<int32_t>(from, out);
      return;
    case DType::u64:
      cast_each<uint64_t>(from, out);
      return;
    case DType::i64:
      cast_each<int64_t>(from, out);
      return;
    case DType::f8_e4m3fnuz:
      convert_each<uint8_t>(from, out, [](uint8_t v) { return fnuz_to_f32(v, 3, 8); });
      return;
    case DType::f8_e5m2fnuz:
      convert_each<uint8_t>(from, out, [](uint8_t v) { return fnuz_to_f32(v, 2, 16); });
      return;
    case DType::f8_e8m0:
      convert_each<uint8_t>(from, out, e8m0_to_f32);
      return;
    case DType::c64:
    case DType::f4:
    case DType::f6_e2m3:
    case DType::f6_e3m2:
      OVERPROOF_CHECK(has_values(dtype));
      return;
  }
}

void f32_to_elements(DType dtype, std::span<const float> values, uint8_t* to) {
  OVERPROOF_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16);
  if (dtype == DType::f32) {
    if (!values.empty()) std::memcpy(to, values.data(), values.size_bytes());
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t narrow = dtype == DType::bf16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
    std::memcpy(to + 2 * i, &narrow, sizeof narrow);
  }
}

int64_t TensorInfo::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;  // readers have checked that this fits
  return n;
}

int64_t TensorInfo::row_elements() const {
  int64_t n = 1;
  for (size_t i = 1; i < shape.size(); ++i) n *= shape[i];
  return n;
}

const TensorInfo* TensorSource::find(std::string_view name) const {
  for (const TensorInfo& t : tensors()) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

std::vector<float> TensorSource::read_all_f32(std::string_view name) const {
  const TensorInfo* t = find(name);
  std::vector<float> out(t ? size_t(t->elements()) : 0);
  read_f32(name, 0, t && !t->shape.empty() ? t->shape[0] : 1, out);  // names what is missing
  return out;
}

const std::vector<std::filesystem::path>& TensorSource::files() const {
  static const std::vector<std::filesystem::path> none;
  return none;
}

std::optional<RowExtent> TensorSource::extent(std::string_view) const { return std::nullopt; }

void TensorSource::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t>,
                               std::span<float> out) const {
  read_f32(name, first_row, rows, out);
}

const TensorInfo* TensorTable::find(std::string_view name) const {
  const auto i = index_.find(name);
  return i == index_.end() ? nullptr : &list_[i->second];
}

bool TensorTable::add(TensorInfo info) {
  if (!index_.emplace(info.name, list_.size()).second) return false;
  list_.push_back(std::move(info));
  return true;
}

size_t TensorTable::index_of(const TensorInfo& tensor) const {
  OVERPROOF_CHECK(&tensor >= list_.data() && &tensor < list_.data() + list_.size());
  return size_t(&tensor - list_.data());
}

size_t TensorTable::row_range(const std::filesystem::path& file, std::string_view name, int64_t first_row, int64_t rows,
                              std::span<float> out) const {
  const auto i = index_.find(name);
  if (i == index_.end()) throw FormatError(file, -1, fmt::format("has no tensor '{}'", name));
  const TensorInfo& t = list_[i->second];
  const int64_t all = t.shape.empty() ? 1 : t.shape[0];
  if (first_row < 0 || rows < 0 || first_row > all || rows > all - first_row) {
    throw FormatError(file, -1,
                      fmt::format("tensor '{}' has {} rows; {} rows from row {} were requested", name, all, rows, first_row));
  }
  if (!has_values(t.dtype))
    throw FormatError(file, -1, fmt::format("tensor '{}' is {}, which is listed and copied, and not read as numbers", name, dtype_name(t.dtype)));
  OVERPROOF_CHECK(int64_t(out.size()) == rows * t.row_elements());
  return i->second;
}

Checkpoint::Checkpoint() : config(std::make_unique<Json>()) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

}  // namespace overproof
