#include "quantize/kernels/fp8.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/safetensors.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/row_kernels.h"

using namespace overproof;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden" / "rounding";

/// All bf16 bit patterns, infinities and NaN as zero.
std::vector<uint16_t> every_bf16() {
  std::vector<uint16_t> bits(65536);
  for (uint32_t i = 0; i < 65536; ++i) bits[i] = (i & 0x7fff) < 0x7f80 ? uint16_t(i) : uint16_t(0);
  return bits;
}

template <class T>
std::vector<T> values_of(const SafetensorsFile& file, std::string_view name) {
  const auto bytes = file.bytes(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

TEST_CASE("every bf16 number rounds as torch's casts do, at every scale, in every kernel") {
  const Json golden = read_json(kGolden / "bf16.json");
  const std::vector<uint16_t> bits = every_bf16();
  std::vector<float> wide;
  for (const uint16_t h : bits) wide.push_back(bf16_to_f32(h));
  const int64_t n = int64_t(bits.size());
  std::vector<uint8_t> codes(bits.size());
  REQUIRE(golden["int8"].size() >= 10);
  for (const auto& [scale_bits, digest] : golden["int8"].items()) {
    const float scale = f32_from_bits(uint32_t(std::stoul(scale_bits)));
    for (size_t i = 0; i < bits.size(); ++i) codes[i] = uint8_t(int8_code(wide[i], scale));
    CHECK(sha256(codes).hex() == digest);
    for (const RowKernels* kernels : all_row_kernels()) {
      CAPTURE(scale, std::string(kernels->name));
      kernels->bf16.int8(bits.data(), n, scale, codes.data(), 0);
      CHECK(sha256(codes).hex() == digest);
      kernels->f32.int8(wide.data(), n, scale, codes.data(), 0);
      CHECK(sha256(codes).hex() == digest);
    }
  }
  REQUIRE(golden["float8_e4m3fn"].size() >= 10);
  for (const auto& [scale_bits, digest] : golden["float8_e4m3fn"].items()) {
    const float scale = f32_from_bits(uint32_t(std::stoul(scale_bits)));
    for (size_t i = 0; i < bits.size(); ++i) codes[i] = fp8_code(wide[i], scale);
    CHECK(sha256(codes).hex() == digest);
    for (const RowKernels* kernels : all_row_kernels()) {
      CAPTURE(scale, std::string(kernels->name));
      kernels->bf16.fp8(bits.data(), n, scale, codes.data());
      CHECK(sha256(codes).hex() == digest);
      kernels->f32.fp8(wide.data(), n, scale, codes.data());
      CHECK(sha256(codes).hex() == digest);
    }
  }
}

TEST_CASE("the cast alone saturates infinities and keeps NaN as torch does") {
  std::vector<uint8_t> codes(65536);
  for (uint32_t i = 0; i < 65536; ++i) codes[i] = f32_to_f8_e4m3(bf16_to_f32(uint16_t(i)));
  CHECK(sha256(codes).hex() == read_json(kGolden / "bf16.json")["e4m3_cast"]);
}

TEST_CASE("f32 numbers at and next to every tie of E4M3 round as torch's cast does") {
  const SafetensorsFile golden(kGolden / "f32.safetensors");
  const std::vector<float> x = values_of<float>(golden, "x");
  const std::vector<uint8_t> expected = values_of<uint8_t>(golden, "code");
  REQUIRE(x.size() > 1500);
  for (size_t i = 0; i < x.size(); ++i)
    if (fp8_code(x[i], 1.0f) != expected[i])
      FAIL(x[i] << " became " << int(fp8_code(x[i], 1.0f)) << ", not " << int(expected[i]));
  for (const RowKernels* kernels : all_row_kernels()) {
    std::vector<uint8_t> codes(x.size());
    kernels->f32.fp8(x.data(), int64_t(x.size()), 1.0f, codes.data());
    CHECK(codes == expected);
  }
}

TEST_CASE("every code is its own nearest, and the error bound holds") {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    CHECK(int(fp8_code(f8_e4m3_to_f32(uint8_t(code)), 1.0f)) == code);
  }
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = bf16_to_f32(uint16_t(bits));
    if (!(std::abs(x) <= 448.0f)) continue;
    if (std::abs(x - fp8_value(fp8_code(x, 1.0f), 1.0f)) > std::max(std::abs(x) / 16, 0x1p-10f)) FAIL(x);
  }
}

TEST_CASE("MXFP8 exponents are the least that clip nothing, but for 1.75 times a power of two itself") {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const float amax = bf16_to_f32(uint16_t(bits));
    const uint8_t byte = mxfp8_exponent(bits << 16);
    if (amax / e8m0_value(byte) > 448.0f) FAIL(amax << " is clipped");
    if (byte > 0 && amax / e8m0_value(uint8_t(byte - 1)) < 448.0f) FAIL(amax << " wastes a bit");
    if (e8m0_value(byte) * e8m0_reciprocal(byte) != 1.0f) FAIL("reciprocal of " << int(byte));
  }
}
