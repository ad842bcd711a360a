#include "model/compute.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/temp_folder.h"
#include "model/decoder.h"
#include "model/ops/products.h"
#include "records/resume.h"
#include "tests/model/random_model.h"

namespace overproof {

TEST_CASE("use_compute: f32 as asked, f32 for narrow models, and bf16 only where the processor has it") {
  CHECK(use_compute(Compute::f32, 4096).name() == "f32");
  CHECK(ops::product_type() == ops::ProductType::f32);
  const ComputeChoice narrow = use_compute(Compute::automatic, 64);
  CHECK(narrow.name() == "f32");
  CHECK(narrow.gain == 0);
  const ComputeChoice wide = use_compute(Compute::automatic, 576);
  CHECK((wide.type == Compute::bf16) == (ops::product_type() == ops::ProductType::bf16));
  CHECK((wide.type == Compute::bf16) == (wide.gain >= 1.3));
  bool refused = false;
  try {
    const ComputeChoice asked = use_compute(Compute::bf16, 64);  // not inside of a CHECK, which catches what it throws
    CHECK(asked.name() == "bf16");
    CHECK(ops::product_type() == ops::ProductType::bf16);
  } catch (const MismatchError&) {
    refused = true;
  }
  if (wide.gain > 0) CHECK_FALSE(refused);  // it was measured, so the processor has it
  prepare_torch();
  CHECK(ops::product_type() == ops::ProductType::f32);
}

TEST_CASE("use_compute: a stage that was killed resumes in the type that it had, another stage measures anew") {
  const TempFolder folder;
  const fs::path& dir = folder.path();
  const Digest key = Digest::from_hex(std::string(64, 'a')), other = Digest::from_hex(std::string(64, 'b'));
  const Outputs outputs(dir / "out", dir / "scratch", {}, key);
  const ComputeChoice first = use_compute(Compute::automatic, 576, outputs);
  // What a measurement on a loaded machine could have chosen when the run began.
  Resume(dir / "scratch" / "compute", key).write({{}, {{kComputeMetric, "f32"}}});
  const ComputeChoice again = use_compute(Compute::automatic, 576, outputs);
  CHECK(again.name() == "f32");
  CHECK(again.gain == 0);
  CHECK(ops::product_type() == ops::ProductType::f32);
  CHECK((use_compute(Compute::automatic, 576, Outputs(dir / "out", dir / "scratch", {}, other)).gain > 0) == (first.gain > 0));
  prepare_torch();
}

TEST_CASE("recorded_compute: what metrics record, f32 where they record nothing, an error for anything else") {
  CHECK(recorded_compute({{"steps", 3}}, "a") == Compute::f32);
  CHECK(recorded_compute({{"compute", "f32"}}, "a") == Compute::f32);
  CHECK(recorded_compute({{"compute", "bf16"}}, "a") == Compute::bf16);
  CHECK_THROWS_AS(recorded_compute({{"compute", "auto"}}, "a"), FormatError);
  CHECK_THROWS_AS(recorded_compute({{"compute", 16}}, "a"), FormatError);
}

TEST_CASE("a decoder with products in bf16 keeps its residual stream, its FFN inputs and its logits in f32") {
  const ModelConfig config = random_moe_config();
  const RandomSource source(config);
  const Decoder decoder(config, source);
  const at::Tensor ids = at::arange(24).view({2, 12}).to(at::kLong) % decoder.config().vocab_size;
  at::NoGradGuard no_grad;
  const auto run = [&] {
    std::vector<at::Tensor> out;
    ForwardOptions options;
    options.on_ffn_input = [&](int64_t, const at::Tensor& x) { out.push_back(x.clone()); };
    const at::Tensor hidden = decoder.hidden(ids, options);
    out.push_back(hidden);
    out.push_back(decoder.logits(hidden));
    return out;
  };
  const std::vector<at::Tensor> f32 = run();
  const ops::ProductTypeScope scope(ops::ProductType::bf16);
  const std::vector<at::Tensor> bf16 = run();
  REQUIRE(f32.size() == bf16.size());
  for (size_t i = 0; i < f32.size(); ++i) {
    CAPTURE(i);
    CHECK(bf16[i].scalar_type() == at::kFloat);
    // Rounding changes which expert a few tokens get, so the mean is compared, not the largest difference.
    CHECK((f32[i] - bf16[i]).abs().mean().item<double>() <= 0.03 * f32[i].abs().mean().item<double>());
    CHECK_FALSE(at::equal(f32[i], bf16[i]));
  }
}

}  // namespace overproof
