#include "quantize/kernels/int8.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "core/rng.h"
#include "quantize/kernels/int8_cpu.h"

using namespace overproof;

namespace {

/// Rounding by the standard library, independent of the trick in int8_code.
int reference_code(float x, float scale) {
  const double quotient = std::nearbyint(double(x / scale));
  return int(std::min(127.0, std::max(-127.0, quotient)));
}

std::vector<float> random_row(int64_t n, uint64_t seed, double spread) {
  Rng rng(seed, "test/int8");
  std::vector<float> row(n);
  for (float& x : row) x = float(rng.normal() * spread);
  return row;
}

}  // namespace

TEST_CASE("every bf16 value rounds to nearest, ties to even, at several scales") {
  for (const float scale : {1.0f, 0.5f, 0.0078125f, 1.0f / 3.0f, 3.1e-5f, 7.25f})
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const float x = bf16_to_f32(uint16_t(bits));
      if (!std::isfinite(x)) continue;
      if (int(int8_code(x, scale)) != reference_code(x, scale)) FAIL("x " << x << " scale " << scale);
    }
  CHECK(int(int8_code(0.5f, 1.0f)) == 0);
  CHECK(int(int8_code(1.5f, 1.0f)) == 2);
  CHECK(int(int8_code(2.5f, 1.0f)) == 2);
  CHECK(int(int8_code(-0.5f, 1.0f)) == 0);
  CHECK(int(int8_code(-126.5f, 1.0f)) == -126);
  CHECK(int(int8_code(3e38f, 1.0f)) == 127);
  CHECK(int(int8_code(-3e38f, 1e-30f)) == -127);  // the quotient overflows to infinity and is clipped
}

TEST_CASE("the scale maps the largest magnitude to 127, and tiny rows to zero") {
  CHECK(int8_scale(127.0f) == 1.0f);
  CHECK(int8_scale(0.0f) == 1.0f);
  CHECK(int8_scale(std::numeric_limits<float>::denorm_min()) == 1.0f);
  Rng rng(1, "test/scale");  // magnitudes from 1.5e-36, whose scale is normal, to the largest
  for (int i = 0; i < 10000; ++i) {
    const float amax = f32_from_bits(0x04000000u + uint32_t(rng.below(0x7b800000u)));
    if (int(int8_code(amax, int8_scale(amax))) != 127) FAIL(amax);
    if (int(int8_code(-amax, int8_scale(amax))) != -127) FAIL(amax);
  }
}

TEST_CASE("error stays within half a step") {
  const std::vector<float> row = random_row(4096, 3, 0.02);
  std::vector<int8_t> codes(row.size());
  const ScaledRow result = quantize_int8_row(row, codes, Clipping::absmax);
  REQUIRE(result.finite);
  double noise = 0, signal = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double error = double(row[i]) - double(codes[i]) * result.scale;
    if (std::abs(error) > 0.50001 * result.scale) FAIL("element " << i);
    noise += error * error;
    signal += double(row[i]) * row[i];
  }
  CHECK(result.error.noise == Approx(noise).epsilon(1e-5));
  CHECK(result.error.signal == Approx(signal).epsilon(1e-5));
}

TEST_CASE("all kernels report a row with an infinity or NaN at any position") {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (size_t at = 0; at < 40; ++at) {
      std::vector<float> row(40, 1.0f);
      row[at] = bad;
      std::vector<int8_t> codes(row.size());
      for (const RowKernels* kernels : all_row_kernels())
        for (const Clipping how : {Clipping::absmax, Clipping::mse})
          CHECK_FALSE(quantize_int8_row(row, codes, how, *kernels).finite);
    }
}

TEST_CASE("MSE clipping never does worse than absmax, and does better on a row with one outlier") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> row = random_row(577, seed, 0.05);
    std::vector<int8_t> a(row.size()), b(row.size());
    const ScaledRow absmax = quantize_int8_row(row, a, Clipping::absmax), mse = quantize_int8_row(row, b, Clipping::mse);
    REQUIRE(mse.error.noise <= absmax.error.noise);
    for (size_t i = 0; i < row.size(); ++i) REQUIRE(b[i] == int8_code(row[i], mse.scale));
  }
  std::vector<float> row = random_row(40000, 5, 1.0);
  row[7] = 12.0f;
  std::vector<int8_t> codes(row.size());
  CHECK(quantize_int8_row(row, codes, Clipping::mse).error.noise <
        0.999 * quantize_int8_row(row, codes, Clipping::absmax).error.noise);
}
