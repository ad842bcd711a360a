#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>

#include "core/file.h"
#include "core/float_bits.h"
#include "formats/ggml_blocks.h"

using namespace overproof;

TEST_CASE("every ggml type dequantises to the bits of the gguf package") {
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/gguf_blocks";
  for (const GgmlType type : {GgmlType::f32, GgmlType::f16, GgmlType::bf16, GgmlType::q4_0, GgmlType::q4_1, GgmlType::q5_0,
                              GgmlType::q5_1, GgmlType::q8_0, GgmlType::q4_k, GgmlType::q5_k, GgmlType::q6_k}) {
    const GgmlLayout layout = ggml_layout(type);
    CAPTURE(layout.name);
    const std::string blocks = read_file(golden / (std::string(layout.name) + ".blocks"));
    const std::string expected_bytes = read_file(golden / (std::string(layout.name) + ".f32"));
    std::vector<float> expected(expected_bytes.size() / 4);
    std::memcpy(expected.data(), expected_bytes.data(), expected_bytes.size());
    REQUIRE(blocks.size() % size_t(layout.block_bytes) == 0);
    REQUIRE(expected.size() == blocks.size() / size_t(layout.block_bytes) * size_t(layout.block_values));
    REQUIRE(expected.size() >= 512);

    // Once as it is, once from an odd address: blocks in a file are not aligned.
    const std::string shifted = "x" + blocks;
    for (const char* from : {blocks.data(), shifted.data() + 1}) {
      std::vector<float> got(expected.size(), -1.0f);
      ggml_to_f32(type, reinterpret_cast<const uint8_t*>(from), got);
      size_t different = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        const bool both_nan = std::isnan(got[i]) && std::isnan(expected[i]);  // a NaN's payload depends on operand order
        different += f32_bits(got[i]) != f32_bits(expected[i]) && !both_nan;
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("unknown ggml types have no layout") {
  CHECK_FALSE(ggml_layout(4).has_value());
  CHECK_FALSE(ggml_layout(0xffffffff).has_value());
}
