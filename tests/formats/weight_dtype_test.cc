#include "formats/weight_dtype.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "formats/head_tying.h"
#include "formats/model_size.h"
#include "formats/safetensors.h"
#include "tests/skip.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// One matrix and one vector of a Llama, in the given types.
void write_model(const fs::path& folder, DType matrices, DType vectors) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  SafetensorsWriter writer(out, "model.safetensors",
                           {{"model.layers.0.self_attn.q_proj.weight", matrices, {4, 32}},
                            {"model.norm.weight", vectors, {64}},
                            {"model.layers.0.mlp.gate.weight", DType::f32, {64, 32}}},
                           {{"format", "pt"}});
  writer.append_f32(std::vector<float>(4 * 32, 0.5f));
  writer.append_f32(std::vector<float>(64, 1.0f));
  writer.append_f32(std::vector<float>(64 * 32, 1.0f));
  writer.close();
  out.write_file("config.json", Json{{"model_type", "glm4_moe"}}.dump());
}

}  // namespace

TEST_CASE("the type of a checkpoint is that of most elements of its matrices; routers and vectors do not count") {
  const TempFolder folder;
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    const fs::path model = folder.path() / std::string(dtype_name(dtype));
    write_model(model, dtype, DType::f32);
    const Checkpoint checkpoint = open_checkpoint(model);
    CHECK(weight_dtype(checkpoint) == dtype);
    CHECK(written_dtype(WeightDType::automatic, checkpoint) == dtype);
    CHECK(written_dtype(WeightDType::f32, checkpoint) == DType::f32);
    CHECK(written_dtype(WeightDType::bf16, checkpoint) == DType::bf16);
    CHECK(written_dtype(WeightDType::f16, checkpoint) == DType::f16);
  }
}

TEST_CASE("a teacher of 4 bits gives students in bf16") {
  const char* teacher = std::getenv("OVERPROOF_TEACHER");
  if (!teacher || !fs::exists(teacher)) SKIP_CASE("OVERPROOF_TEACHER is not set");
  const Checkpoint checkpoint = open_checkpoint(teacher);
  CHECK(checkpoint.tensors->find("model.layers.0.self_attn.q_proj.weight")->dtype == DType::f32);  // as it is read
  CHECK(weight_dtype(checkpoint) == DType::bf16);
  CHECK(bf16_bytes(checkpoint) == 2 * 134'515'008);  // its parameters, by its model card and transformers
}

TEST_CASE("values beyond the range of 16 bits are refused, and only there") {
  const std::vector<float> large = {1.0f, -65520.0f}, largest = {65504.0f, -65519.0f};
  CHECK_THROWS_WITH(require_range(DType::f16, large, "a.weight"), Catch::Contains("a.weight holds -65520"));
  CHECK_NOTHROW(require_range(DType::f16, largest, "a.weight"));
  CHECK_NOTHROW(require_range(DType::bf16, large, "a.weight"));
  // Half a step above bf16's largest number, 0x1.fep127, as torch.tensor(x).bfloat16() rounds: a tie goes to the even one, infinity.
  const std::vector<float> huge = {1.0f, -0x1.ffp127f}, huge_held = {0x1.fep127f, -0x1.fefffep127f};
  CHECK_THROWS_WITH(require_range(DType::bf16, huge, "a.weight"), Catch::Contains("a.weight holds -3.39618e+38, and bf16 ends at 3.38953e+38"));
  CHECK_NOTHROW(require_range(DType::bf16, huge_held, "a.weight"));
  CHECK_NOTHROW(require_range(DType::f32, huge, "a.weight"));
}

TEST_CASE("tying follows the teacher, except where a runtime needs a head, and cannot be forced on two tables") {
  CHECK(resolve_tie(Tie::automatic, true, false));
  CHECK_FALSE(resolve_tie(Tie::automatic, true, true));
  CHECK_FALSE(resolve_tie(Tie::automatic, false, false));
  CHECK(resolve_tie(Tie::yes, true, true));
  CHECK_FALSE(resolve_tie(Tie::no, true, false));
  CHECK_THROWS_AS(resolve_tie(Tie::yes, false, false), MismatchError);
  Json metrics = Json::object();
  CHECK(record_tie(metrics, Tie::automatic, true, false, 1'500'000).find("1.5 MB") != std::string::npos);
  CHECK(metrics == Json{{"tied", false}, {"tie_would_save", 1'500'000}});
  metrics = Json::object();
  CHECK(record_tie(metrics, Tie::yes, true, true, 1'500'000).empty());
  CHECK(metrics == Json{{"tied", true}});
}

TEST_CASE("a result is compared with the teacher in bf16, and a larger one is warned of") {
  CHECK(size_against(165'900'000, 269'030'016, "the teacher") == "0.166 GB, 0.62 of the teacher in bf16 (0.269 GB)");
  CHECK(size_warning(269'030'016, 269'030'016, "the result", "the teacher").empty());
  CHECK(size_warning(335'800'000, 269'030'016, "the result", "the teacher") ==
        "warning: the result is larger than the teacher in bf16 (335.8 MB against 269.0 MB)");
}
