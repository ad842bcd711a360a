#include "quantize/kernels/row_kernels.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/float_bits.h"
#include "core/rng.h"
#include "quantize/kernels/fp8.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/q8_0.h"
#include "tests/skip.h"

using namespace overproof;

namespace {

constexpr int kKinds = 8;

/// Rows that are hard in different ways: sizes at both ends, ties, zeros of both signs, any bits at all.
std::vector<float> row_of_kind(int kind, int64_t n) {
  Rng rng(7, "test/kernels", uint64_t(kind) << 32 | uint64_t(n));
  std::vector<float> row(n);
  for (float& x : row) {
    const double normal = rng.normal();
    switch (kind) {
      case 0:
        x = float(normal * 0.02);
        break;
      case 1:
        x = float(normal * 1e30);
        break;
      case 2:
        x = float(normal * 1e-37);
        break;
      case 3:
        x = 0.5f * std::round(float(normal * 64));
        break;  // ties at scale 1
      case 4:
        x = f32_from_bits(uint32_t(rng.below(0x7f800000u)) | uint32_t(rng.below(2)) << 31);
        break;
      case 5:
        x = rng.below(3) == 0 ? float(normal) : std::copysign(0.0f, float(normal));
        break;
      case 6:
        x = f8_e4m3_to_f32(uint8_t(rng.below(127))) * (1.0f + float(rng.below(3)) * 0x1p-4f) - float(rng.below(2)) * 0x1p-10f;
        break;
      default:
        x = float(normal * 1e-6) + (rng.below(16) == 0 ? 7.0f : 0.0f);  // outliers; tiny f16 scales next to large ones
    }
  }
  return row;
}

std::vector<uint16_t> as_bf16(const std::vector<float>& row) {
  std::vector<uint16_t> bits;
  for (const float x : row) {
    const uint16_t h = f32_to_bf16(x);
    bits.push_back((h & 0x7fff) < 0x7f80 ? h : uint16_t(h - 1));  // what rounds to infinity becomes the largest
  }
  return bits;
}

bool same(const RowError& a, const RowError& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

/// Everything that the kernels make of one row, one after the other; error sums as their bytes.
template <class In>
std::vector<uint8_t> everything(const RowKernels& kernels, const std::vector<In>& row) {
  const InputKernels<In>& k = kernels.of<In>();
  const int64_t n = int64_t(row.size());
  std::vector<uint8_t> all;
  const auto append = [&](const std::vector<uint8_t>& codes, const RowError& error) {
    all.insert(all.end(), codes.begin(), codes.end());
    const auto* bytes = reinterpret_cast<const uint8_t*>(&error);
    all.insert(all.end(), bytes, bytes + sizeof error);
  };
  const uint32_t magnitude = k.amax_bits(row.data(), n);
  append({uint8_t(magnitude), uint8_t(magnitude >> 8), uint8_t(magnitude >> 16), uint8_t(magnitude >> 24)}, {});
  const float amax = f32_from_bits(magnitude);
  std::vector<uint8_t> codes(n);
  for (const float part : {1.0f, 0.75f})
    for (const uint8_t flip : {0x00, 0x80}) {
      const RowError error = k.int8(row.data(), n, int8_scale(amax * part), codes.data(), flip);
      append(codes, error);
    }
  for (const float scale : {fp8_scale(amax), fp8_scale(amax * 0.75f)}) append(codes, k.fp8(row.data(), n, scale, codes.data()));
  if (amax < 1e30f)  // a power of two, where ties are common; codes clip
    for (const float scale : {1.0f, 0x1p-9f}) {
      append(codes, k.fp8(row.data(), n, scale, codes.data()));
      append(codes, k.int8(row.data(), n, scale, codes.data(), 0));
    }
  if (n % 32 != 0) return all;
  std::vector<uint8_t> exponents(n / 32), blocks(n / 32 * kQ8Bytes);
  RowError error;
  REQUIRE(k.mxfp8(row.data(), n, codes.data(), exponents.data(), error));
  append(codes, error);
  append(exponents, {});
  error = {};
  if (k.q8_0(row.data(), n, blocks.data(), error)) append(blocks, error);
  else all.push_back('x');
  return all;
}

/// Compares with the scalar reference bit for bit, from f32 and from bf16, at lengths 1 to 300.
void compare_with_scalar(const RowKernels& kernels) {
  for (int64_t n = 1; n <= 300; ++n)
    for (int kind = 0; kind < kKinds; ++kind) {
      const std::vector<float> row = row_of_kind(kind, n);
      const std::vector<uint16_t> bits = as_bf16(row);
      std::vector<float> widened;
      for (const uint16_t h : bits) widened.push_back(bf16_to_f32(h));
      const std::vector<uint8_t> expected = everything(scalar_row_kernels(), row),
                                 expected_bf16 = everything(scalar_row_kernels(), widened);
      CAPTURE(n, kind, std::string(kernels.name));
      REQUIRE(everything(kernels, row) == expected);
      REQUIRE(everything(kernels, bits) == expected_bf16);
    }
}

}  // namespace

TEST_CASE("the scalar kernels give the same from bf16 as from the same values in f32") {
  compare_with_scalar(scalar_row_kernels());
}

TEST_CASE("AVX2 kernels equal the scalar reference bit for bit", "[hardware-avx2]") {
  if (!avx2_row_kernels()) SKIP_CASE("this processor has no AVX2");
  compare_with_scalar(*avx2_row_kernels());
}

TEST_CASE("AVX-512 kernels equal the scalar reference bit for bit", "[hardware-avx512]") {
  if (!avx512_row_kernels()) SKIP_CASE("this processor has no AVX-512");
  compare_with_scalar(*avx512_row_kernels());
}

TEST_CASE("kernels agree on long rows and at unaligned addresses") {
  for (const int64_t n : {1536, 4096, 4099}) {
    const std::vector<float> row = row_of_kind(0, n + 1);
    const std::vector<uint16_t> bits = as_bf16(row);
    for (const RowKernels* kernels : all_row_kernels()) {
      std::vector<uint8_t> a(n + 1), b(n);
      const float scale = int8_scale(f32_from_bits(kernels->bf16.amax_bits(bits.data() + 1, n)));
      const RowError x = kernels->bf16.int8(bits.data() + 1, n, scale, a.data() + 1, 0);
      const RowError y = scalar_row_kernels().bf16.int8(bits.data() + 1, n, scale, b.data(), 0);
      CHECK(std::equal(b.begin(), b.end(), a.begin() + 1));
      CHECK(same(x, y));
    }
  }
}

TEST_CASE("error sums are those of the dequantized values") {
  const std::vector<float> row = row_of_kind(7, 1024);
  for (const RowKernels* kernels : all_row_kernels()) {
    const InputKernels<float>& k = kernels->f32;
    const int64_t n = int64_t(row.size());
    std::vector<uint8_t> codes(n), exponents(n / 32), blocks(n / 32 * kQ8Bytes);
    const auto check = [&](const RowError& error, const auto& value_of) {
      double signal = 0, noise = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double x = row[size_t(i)], difference = x - double(value_of(i));
        signal += x * x;
        noise += difference * difference;
      }
      CHECK(error.signal == Approx(signal).epsilon(1e-5));
      CHECK(error.noise == Approx(noise).epsilon(1e-4).margin(1e-11 * signal));
    };
    const float s = int8_scale(7.0f), f = fp8_scale(7.0f);
    check(k.int8(row.data(), n, s, codes.data(), 0), [&](int64_t i) { return int8_value(int8_t(codes[i]), s); });
    check(k.fp8(row.data(), n, f, codes.data()), [&](int64_t i) { return fp8_value(codes[i], f); });
    RowError mx, q8;
    REQUIRE(k.mxfp8(row.data(), n, codes.data(), exponents.data(), mx));
    check(mx, [&](int64_t i) { return fp8_value(codes[i], e8m0_value(exponents[i / 32])); });
    REQUIRE(k.q8_0(row.data(), n, blocks.data(), q8));
    check(q8, [&](int64_t i) {
      uint16_t d;
      std::memcpy(&d, &blocks[i / 32 * kQ8Bytes], 2);
      return f16_to_f32(d) * float(int8_t(blocks[i / 32 * kQ8Bytes + 2 + i % 32]));
    });
  }
}

TEST_CASE("groups with an infinity, a NaN or a value that f16 scales cannot hold are refused at any position") {
  const float bads[] = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::quiet_NaN()};
  for (const RowKernels* kernels : all_row_kernels())
    for (size_t at = 0; at < 288; at += 5) {
      std::vector<uint8_t> codes(288), exponents(9), blocks(9 * kQ8Bytes);
      RowError error;
      const auto refused = [&](float bad, bool mx) {
        std::vector<float> row(288, 1.0f);
        row[at] = bad;
        const std::vector<uint16_t> bits = [&] {
          std::vector<uint16_t> list;
          for (const float x : row) list.push_back(f32_to_bf16(x));
          return list;
        }();
        if (mx)
          return !kernels->f32.mxfp8(row.data(), 288, codes.data(), exponents.data(), error) &&
                 !kernels->bf16.mxfp8(bits.data(), 288, codes.data(), exponents.data(), error);
        return !kernels->f32.q8_0(row.data(), 288, blocks.data(), error) &&
               !kernels->bf16.q8_0(bits.data(), 288, blocks.data(), error);
      };
      for (const float bad : bads) {
        CHECK(refused(bad, true));
        CHECK(refused(bad, false));
      }
      CHECK(refused(-9e6f, false));
      CHECK_FALSE(refused(8.2e6f, false));
      CHECK_FALSE(refused(3e38f, true));
    }
}

TEST_CASE("Q8_0 rounds ties away from zero, and what is next to them to nearest, for every half") {
  for (int half = -253; half <= 253; half += 2)
    for (const float x :
         {0.5f * float(half), std::nextafter(0.5f * float(half), 1e9f), std::nextafter(0.5f * float(half), -1e9f)})
      if (int(q8_0_code(x, 1.0f)) != int(std::round(x))) FAIL(x);
  Rng rng(3, "test/q8");
  for (int i = 0; i < 200000; ++i) {
    const float x = float((rng.uniform() - 0.5) * 255.0);
    if (int(q8_0_code(x, 1.0f)) != int(std::round(x))) FAIL(x);
  }
}
