#include <catch2/catch.hpp>

#include <atomic>
#include <cmath>
#include <latch>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/checked.h"
#include "core/digest.h"
#include "core/float_bits.h"
#include "core/parallel.h"
#include "core/rng.h"

using namespace overproof;

// Known answers of Random123's kat_vectors for philox4x32, 10 rounds.
TEST_CASE("Philox gives Random123's known answers") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("streams are independent of the order of use, and uniform") {
  const Rng a(7, "teach/rows", 3);
  Rng b(7, "teach/rows", 3);
  CHECK(b.next_u32() == a.block(0)[0]);
  CHECK(Rng(7, "teach/rows", 4).block(0) != a.block(0));
  CHECK(Rng(7, "other", 3).block(0) != a.block(0));
  double sum = 0, square = 0;
  for (int i = 0; i < 20000; ++i) {
    const double x = b.normal();
    sum += x;
    square += x * x;
  }
  CHECK(std::abs(sum / 20000) < 0.03);
  CHECK(std::abs(square / 20000 - 1) < 0.05);
  std::array<int, 7> hits{};
  for (int i = 0; i < 7000; ++i) ++hits[b.below(7)];
  for (const int h : hits) CHECK(std::abs(h - 1000) < 150);
}

TEST_CASE("narrow floats: every code survives the way out and back, ties go to even") {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float from_half = f16_to_f32(uint16_t(h)), from_bf = bf16_to_f32(uint16_t(h));
    if (!std::isnan(from_half)) REQUIRE(f32_to_f16(from_half) == h);
    else REQUIRE(std::isnan(f16_to_f32(f32_to_f16(from_half))));
    if (!std::isnan(from_bf)) REQUIRE(f32_to_bf16(from_bf) == h);
    else REQUIRE(std::isnan(bf16_to_f32(f32_to_bf16(from_bf))));
  }
  CHECK(f32_to_bf16(f32_from_bits(0x3f808000)) == 0x3f80);  // halfway, even below
  CHECK(f32_to_bf16(f32_from_bits(0x3f818000)) == 0x3f82);  // halfway, even above
  CHECK(f32_to_f16(65519.996f) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_f16(0x1p-25f) == 0);  // halfway to the smallest subnormal: even is zero
  CHECK(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)) == 1);
  CHECK(f8_e4m3_to_f32(0x7e) == 448.0f);
  CHECK(std::isnan(f8_e4m3_to_f32(0xff)));
  CHECK(f8_e4m3_to_f32(0x01) == 0x1p-9f);
  CHECK(f8_e5m2_to_f32(0x7b) == 57344.0f);
  CHECK(std::isinf(f8_e5m2_to_f32(0xfc)));
}

TEST_CASE("SHA-256 gives FIPS 180-4's answers, whole or in pieces") {
  CHECK(sha256("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 h;
  h.update("a");
  h.update("bc");
  CHECK(h.finish() == Digest::from_hex("sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"));
  CHECK_THROWS(Digest::from_hex("12"));
}

TEST_CASE("products that do not fit are seen, and loops are cut the same way for any number of threads") {
  CHECK_FALSE(checked_mul<int64_t>(int64_t{1} << 40, int64_t{1} << 40));
  CHECK(checked_mul<int64_t>(3, 5) == 15);
  CHECK_FALSE(checked_add<int64_t>(INT64_MAX, 1));
  for (const int64_t threads : {1, 2, 5}) {
    set_thread_count(threads);
    std::vector<int64_t> piece(1000, -1);
    parallel_for(1000, 37, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) piece[size_t(i)] = begin;
    });
    for (int64_t i = 0; i < 1000; ++i) REQUIRE(piece[size_t(i)] == i / 37 * 37);
  }
  CHECK_THROWS_AS(parallel_for(10, 1, [](int64_t, int64_t) { throw std::runtime_error("x"); }), std::runtime_error);
}

TEST_CASE("bodies that wait are all called once, together, and the first that throws is heard") {
  for (const int64_t n : {0, 1, 7, 1000}) {
    std::vector<std::atomic<int>> called(static_cast<size_t>(n));
    wait_in_parallel(n, [&](int64_t i) { ++called[size_t(i)]; });
    for (const auto& times : called) REQUIRE(times == 1);
  }
  // More at a time than there are cores here: each waits until eight have begun.
  std::latch eight(8);
  wait_in_parallel(8, [&](int64_t) { eight.arrive_and_wait(); });
  for (int repeat = 0; repeat < 20; ++repeat)
    CHECK_THROWS_WITH(wait_in_parallel(200,
                                       [](int64_t i) {
                                         if (i % 10 == 3) throw std::runtime_error(std::to_string(i));
                                       }),
                      "3");
}
