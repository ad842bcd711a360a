#include "formats/activation_rounding.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/float_bits.h"
#include "core/parallel.h"
#include "formats/safetensors.h"

using namespace overproof;

namespace {

/// F32 tensors of the golden file.
class Golden {
 public:
  std::vector<float> operator[](const std::string& name) const {
    const auto values = file_.values<float>(name);
    return {values.begin(), values.end()};
  }

 private:
  SafetensorsFile file_{std::string(OVERPROOF_SOURCE_DIR) + "/tests/golden/activation_rounding/rounded.safetensors"};
};

constexpr int64_t kColumns = 256;

}  // namespace

TEST_CASE("activations round as compressed-tensors rounds them") {
  const Golden golden;
  using Type = ActivationRounding::Type;
  std::vector<std::pair<std::string, ActivationRounding>> cases = {
      {"int8_token", {}},
      {"int8_token_asymmetric", {.symmetric = false}},
      {"int8_group", {.group = 128}},
      {"fp8_token", {.type = Type::fp8}},
      {"mxfp8", {.type = Type::fp8, .power_of_two = true, .group = 32}},
      {"fp8_group", {.type = Type::fp8, .group = 128}},
  };
  for (const char* name : {"int8_static", "int8_static_asymmetric", "fp8_static"}) {
    const std::vector<float> grid = golden[std::string(name) + ".grid"];
    cases.push_back(
        {name, {.type = name[0] == 'f' ? Type::fp8 : Type::int8, .is_static = true, .scale = grid[0], .zero_point = grid[1]}});
  }
  for (const auto& [name, rounding] : cases) {
    std::vector<float> x = golden["x"];
    const std::vector<float> expected = golden[name];
    rounding.apply(x.data(), int64_t(x.size()) / kColumns, kColumns);
    int64_t different = 0;
    for (size_t i = 0; i < x.size(); ++i) different += x[i] != expected[i];
    INFO(name);
    CHECK(different == 0);
    CHECK(x != golden["x"]);
  }
}

TEST_CASE("the fp8 grid holds every E4M3 value and nothing between") {
  const ActivationRounding fp8{.type = ActivationRounding::Type::fp8, .is_static = true};
  for (uint32_t code = 0; code < 256; ++code) {
    const float value = f8_e4m3_to_f32(uint8_t(code));
    if (std::isnan(value)) continue;
    float x = value;
    fp8.apply(&x, 1, 1);
    CHECK(x == value);
  }
  for (uint32_t code = 0; code < 126; ++code) {  // ties between neighbours go to the even code
    float x = (f8_e4m3_to_f32(uint8_t(code)) + f8_e4m3_to_f32(uint8_t(code + 1))) / 2;
    fp8.apply(&x, 1, 1);
    CHECK(x == f8_e4m3_to_f32(uint8_t(code + code % 2)));
  }
}

TEST_CASE("rounding does not depend on threads, and keeps NaN") {
  const Golden golden;
  std::vector<float> one = golden["x"], two = one;
  one[kColumns + 3] = two[kColumns + 3] = std::numeric_limits<float>::quiet_NaN();
  const ActivationRounding rounding;
  set_thread_count(1);
  rounding.apply(one.data(), int64_t(one.size()) / kColumns, kColumns);
  set_thread_count(2);
  rounding.apply(two.data(), int64_t(two.size()) / kColumns, kColumns);
  set_thread_count(0);
  CHECK(std::memcmp(one.data(), two.data(), one.size() * 4) == 0);
  CHECK(std::isnan(one[kColumns + 3]));
}
