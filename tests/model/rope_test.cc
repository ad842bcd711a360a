#include "model/rope.h"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>

#include "core/json.h"
#include "formats/model_config.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

namespace overproof {

TEST_CASE("the frequencies of every RoPE type are those of transformers") {
  const fs::path file = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/rope/rope.json";
  const Json golden = parse_json(read_file(file), file);
  Json config = random_dense_config().to_json();
  config["head_dim"] = golden["head_dim"];
  config["max_position_embeddings"] = golden["max_position_embeddings"];
  REQUIRE(golden["cases"].size() == 40);
  for (const Json& test : golden["cases"]) {
    config.erase("rope_scaling");
    config["rope_parameters"] = test["rope"];
    const ModelConfig c = ModelConfig::from_json(config, "config.json");
    const auto length = test["length"].get<int64_t>();
    INFO(test["rope"].dump() << " at " << length);
    const at::Tensor expected = at::tensor(test["frequencies"].get<std::vector<double>>(), at::kDouble);
    const at::Tensor found = inverse_frequencies(c.rope, c.head_dim, length, {}).to(at::kDouble);
    REQUIRE(found.sizes() == expected.sizes());
    CHECK(((found - expected).abs() <= 1e-6 * expected.abs()).all().item<bool>());
    const double factor = test["attention_factor"].get<double>();
    CHECK(c.rope.attention_factor == Approx(factor).epsilon(1e-12));
    const ops::RotaryAngles angles = Rope(c.rope, c.head_dim, {}).angles(7, 2, length);
    const at::Tensor cos = (8 * expected).cos() * factor;
    CHECK((angles.cos[1] - cos).abs().max().item<double>() <= 2e-6);
  }
}

TEST_CASE("a part of a head that does not turn stays as it is") {
  const RopeShape shape{
      .type = "yarn", .theta = 1e4, .turned = 8, .factor = 4.0, .attention_factor = 1.5, .original_max_position = 32};
  const ops::RotaryAngles angles = Rope(shape, 24, {}).angles(3, 5, 8);
  REQUIRE(angles.cos.size(1) == 12);
  CHECK(at::equal(angles.cos.narrow(1, 4, 8), at::ones({5, 8})));
  CHECK(at::equal(angles.sin.narrow(1, 4, 8), at::zeros({5, 8})));
  const at::Tensor x = random_tensor({5, 2, 24}, "x"), y = ops::rotate_positions(x, angles);
  for (const int64_t first : {4, 16}) CHECK(at::equal(x.narrow(2, first, 8), y.narrow(2, first, 8)));
}

}  // namespace overproof
