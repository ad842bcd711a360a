#include "quantize/quantize_stage.h"

#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden" / "int8";

std::vector<float> random_values(int64_t n, const std::string& stream) {
  Rng rng(4, stream);
  std::vector<float> values(n);
  for (float& x : values) x = float(rng.normal() * 0.05);
  return values;
}

/// One MoE layer with everything that must and must not be quantized.
std::vector<TensorInfo> moe_tensors() {
  const std::string mlp = "model.layers.0.mlp.", attention = "model.layers.0.self_attn.";
  std::vector<TensorInfo> tensors = {{"model.embed_tokens.weight", DType::bf16, {50, 24}},
                                     {"model.norm.weight", DType::bf16, {24}},
                                     {"lm_head.weight", DType::bf16, {50, 24}},
                                     {"model.layers.0.input_layernorm.weight", DType::bf16, {24}},
                                     {mlp + "gate.weight", DType::f32, {4, 24}},
                                     {mlp + "gate.e_score_correction_bias", DType::f32, {4}},
                                     {attention + "q_proj.weight", DType::bf16, {24, 24}},
                                     {attention + "q_proj.bias", DType::bf16, {24}},
                                     {attention + "o_proj.weight", DType::f16, {24, 24}}};
  for (const char* expert : {"experts.0.", "experts.1.", "shared_experts."}) {
    tensors.push_back({mlp + expert + "gate_proj.weight", DType::bf16, {33, 24}});
    tensors.push_back({mlp + expert + "up_proj.weight", DType::bf16, {33, 24}});
    tensors.push_back({mlp + expert + "down_proj.weight", DType::f32, {24, 33}});
  }
  return tensors;
}

void write_model(const fs::path& folder, const std::vector<TensorInfo>& tensors) {
  write_text(folder / "config.json", R"({"model_type": "glm4_moe", "hidden_size": 24})");
  write_text(folder / "tokenizer.json", R"({"model": {"vocab": {}}})");
  OutputFolder out(folder);
  SafetensorsWriter writer(out, "model.safetensors", tensors);
  for (const TensorInfo& tensor : tensors) writer.append_f32(random_values(tensor.elements(), tensor.name));
  writer.close();
}

StageReport quantize(const QuantizeConfig& config, const fs::path& model, const fs::path& out) {
  fs::create_directories(out);
  Outputs outputs(out, fs::path(out.string() + ".scratch"));
  return run_quantize(config, Inputs({{"model", {model, {}}}}), outputs);
}

std::string all_bytes(const fs::path& folder) {
  std::vector<fs::path> files(fs::directory_iterator(folder), fs::directory_iterator{});
  std::ranges::sort(files);
  std::string bytes;
  for (const fs::path& file : files) bytes += file.filename().string() + "\n" + read_file(file);
  return bytes;
}

}  // namespace

TEST_CASE("patterns match as shells do") {
  CHECK(matches_pattern("model.layers.0.mlp.up_proj.weight", "model.layers.*"));
  CHECK(matches_pattern("model.layers.0.mlp.up_proj.weight", "*.up_proj.*"));
  CHECK(matches_pattern("abc", "abc"));
  CHECK(matches_pattern("", "*"));
  CHECK(matches_pattern("aXbXbc", "a*bc"));
  CHECK_FALSE(matches_pattern("abc", "ab"));
  CHECK_FALSE(matches_pattern("abc", "*b"));
  CHECK_FALSE(matches_pattern("", "a"));
  CHECK_FALSE(matches_pattern(std::string(3000, 'a'), "*a*a*a*a*a*a*a*b"));
}

TEST_CASE("packed weights equal those of compressed-tensors byte for byte") {
  const TempFolder folder;
  write_text(folder.path() / "in" / "config.json", R"({"model_type": "llama"})");
  write_text(folder.path() / "in" / "tokenizer.json", R"({"model": {"vocab": {}}})");
  fs::copy_file(kGolden / "weights.safetensors", folder.path() / "in" / "model.safetensors");
  quantize({.include = {"*"}}, folder.path() / "in", folder.path() / "out");

  const SafetensorsFile expected(kGolden / "packed.safetensors"), ours(folder.path() / "out" / "model.safetensors");
  REQUIRE(expected.tensors().size() == ours.tensors().size());
  for (const TensorInfo& info : expected.tensors()) {
    CAPTURE(info.name);
    CHECK(ours.info(info.name).dtype == info.dtype);
    CHECK(ours.info(info.name).shape == info.shape);
    CHECK(std::ranges::equal(ours.bytes(info.name), expected.bytes(info.name)));
  }
}

TEST_CASE("experts, attention and head are quantized, everything else keeps its bytes, and all tensors are accounted for") {
  const TempFolder folder;
  const std::vector<TensorInfo> tensors = moe_tensors();
  write_model(folder.path() / "in", tensors);
  const StageReport report = quantize({}, folder.path() / "in", folder.path() / "out");
  CHECK(report.metrics()["tensors"] == tensors.size());
  CHECK(report.metrics()["quantised"] == 12);
  CHECK(report.metrics()["kept"] == tensors.size() - 12);
  CHECK(report.metrics()["kept_matrices"] == Json{{"model.embed_tokens.weight", "BF16"}});
  CHECK(report.metrics()["sqnr_db"]["worst"].get<double>() > 38.0);

  const SafetensorsFile before(folder.path() / "in" / "model.safetensors"), after(folder.path() / "out" / "model.safetensors");
  int64_t kept = 0;
  for (const TensorInfo& info : before.tensors()) {
    CAPTURE(info.name);
    if (info.name.find("_proj.weight") != std::string::npos || info.name == "lm_head.weight") {
      CHECK_FALSE(after.contains(info.name));
      CHECK(after.info(info.name + "_packed").shape == std::vector<int64_t>{info.shape[0], (info.shape[1] + 3) / 4});
      CHECK(after.info(info.name + "_scale").dtype == DType::f32);
      std::vector<int64_t> shape(2);  // copied: an odd number of scales before it leaves it unaligned
      std::memcpy(shape.data(), after.bytes(info.name + "_shape").data(), 16);
      CHECK(shape == info.shape);
    } else {
      ++kept;
      CHECK(after.info(info.name).dtype == info.dtype);
      CHECK(std::ranges::equal(after.bytes(info.name), before.bytes(info.name)));
    }
  }
  CHECK(kept + 3 * 12 == int64_t(after.tensors().size()));

  const Json config = read_json(folder.path() / "out" / "config.json");
  CHECK(config["hidden_size"] == 24);
  CHECK(config["quantization_config"]["format"] == "pack-quantized");
  CHECK(config["quantization_config"]["ignore"] == Json({"re:.*embed_tokens.*", "re:.*mlp.gate$"}));
  CHECK(fs::exists(folder.path() / "out" / "tokenizer.json"));
}

TEST_CASE("our own reader dequantizes to within half a step") {
  const TempFolder folder;
  write_model(folder.path() / "in", moe_tensors());
  quantize({}, folder.path() / "in", folder.path() / "out");
  const Checkpoint before = open_checkpoint(folder.path() / "in"), after = open_checkpoint(folder.path() / "out");
  REQUIRE(after.tensors->tensors().size() == before.tensors->tensors().size());
  for (const TensorInfo& info : before.tensors->tensors()) {
    CAPTURE(info.name);
    const std::vector<float> a = before.tensors->read_all_f32(info.name), b = after.tensors->read_all_f32(info.name);
    REQUIRE(a.size() == b.size());
    const bool exact = info.name.find("_proj.weight") == std::string::npos && info.name != "lm_head.weight";
    const int64_t columns = info.shape.size() == 2 ? info.shape[1] : int64_t(a.size());
    for (size_t row = 0; row < a.size() / columns; ++row) {
      float amax = 0;
      for (int64_t j = 0; j < columns; ++j) amax = std::max(amax, std::abs(a[row * columns + j]));
      const float bound = exact ? 0.0f : amax / 127.0f * 0.50001f;
      for (int64_t j = 0; j < columns; ++j) REQUIRE(std::abs(a[row * columns + j] - b[row * columns + j]) <= bound);
    }
  }
}

TEST_CASE("an 8-bit student of f32 tables is written with 16-bit tables, and compared with its size in bf16") {
  const TempFolder folder;
  std::vector<TensorInfo> tensors = moe_tensors();
  for (TensorInfo& t : tensors)
    if (t.dtype == DType::bf16) t.dtype = DType::f32;
  write_model(folder.path() / "in", tensors);
  const StageReport report = quantize({}, folder.path() / "in", folder.path() / "out");
  const auto has = [&](const std::string& words) {
    return std::ranges::any_of(report.summary, [&](const std::string& line) { return line.find(words) != std::string::npos; });
  };
  CHECK(has("kept: model.embed_tokens.weight as BF16 (0.0 MB), 5 norms, routers and other small tensors"));
  CHECK(has("of the model in bf16"));
  const Checkpoint after = open_checkpoint(folder.path() / "out");
  CHECK(after.tensors->find("model.embed_tokens.weight")->dtype == DType::bf16);
  CHECK(after.tensors->find("model.norm.weight")->dtype == DType::f32);
  CHECK(after.tensors->find("model.layers.0.mlp.gate.weight")->dtype == DType::f32);
  CHECK(weight_dtype(after) == DType::bf16);  // what is made from an 8-bit checkpoint
  quantize({.kept_dtype = WeightDType::f32}, folder.path() / "in", folder.path() / "wide");
  CHECK(open_checkpoint(folder.path() / "wide").tensors->find("model.embed_tokens.weight")->dtype == DType::f32);
}

TEST_CASE("bytes do not depend on threads or block size, and shards hold the same tensors") {
  const TempFolder folder;
  std::vector<TensorInfo> tensors = moe_tensors();
  tensors.push_back({"model.layers.1.mlp.up_proj.weight", DType::f32, {700, 1000}});
  tensors.push_back({"model.layers.1.mlp.gate_proj.weight", DType::f32, {700, 1000}});
  write_model(folder.path() / "in", tensors);
  set_thread_count(1);
  quantize({}, folder.path() / "in", folder.path() / "one");
  set_thread_count(4);
  quantize({}, folder.path() / "in", folder.path() / "four");
  set_thread_count(0);
  CHECK(all_bytes(folder.path() / "one") == all_bytes(folder.path() / "four"));
  quantize({.block_bytes = 1 << 16}, folder.path() / "in", folder.path() / "small");
  CHECK(all_bytes(folder.path() / "one") == all_bytes(folder.path() / "small"));

  quantize({.max_shard_bytes = 1 << 20}, folder.path() / "in", folder.path() / "shards");
  REQUIRE(fs::exists(folder.path() / "shards" / "model.safetensors.index.json"));
  const SafetensorsFile whole(folder.path() / "one" / "model.safetensors");
  const Json index = read_json(folder.path() / "shards" / "model.safetensors.index.json");
  REQUIRE(index["weight_map"].size() == whole.tensors().size());
  for (const TensorInfo& info : whole.tensors()) {
    const SafetensorsFile shard(folder.path() / "shards" / index["weight_map"][info.name].get<std::string>());
    CHECK(std::ranges::equal(shard.bytes(info.name), whole.bytes(info.name)));
  }
}

TEST_CASE("exclude keeps weights and lists them for the loader") {
  const TempFolder folder;
  write_model(folder.path() / "in", moe_tensors());
  const StageReport report =
      quantize({.exclude = {"*.q_proj.weight", "*.shared_experts.*"}}, folder.path() / "in", folder.path() / "out");
  CHECK(report.metrics()["quantised"] == 8);
  const Json ignore = read_json(folder.path() / "out" / "config.json")["quantization_config"]["ignore"];
  CHECK(std::ranges::count(ignore, Json("model.layers.0.self_attn.q_proj")) == 1);
  CHECK(std::ranges::count(ignore, Json("model.layers.0.mlp.shared_experts.down_proj")) == 1);
  CHECK_THROWS_AS(quantize({.include = {"nothing.*"}}, folder.path() / "in", folder.path() / "none"), UsageError);
}

TEST_CASE("an infinity or NaN is named, not quantized") {
  const TempFolder folder;
  write_text(folder.path() / "in" / "config.json", R"({"model_type": "llama"})");
  write_text(folder.path() / "in" / "tokenizer.json", R"({"model": {"vocab": {}}})");
  {
    OutputFolder out(folder.path() / "in");
    SafetensorsWriter writer(out, "model.safetensors", {{"model.layers.0.mlp.up_proj.weight", DType::f32, {3, 4}}});
    std::vector<float> values(12, 1.0f);
    values[9] = std::nanf("");
    writer.append_f32(values);
    writer.close();
  }
  CHECK_THROWS_WITH(quantize({}, folder.path() / "in", folder.path() / "out"), Catch::Contains("up_proj.weight row 2"));
}

TEST_CASE("a kept tensor with an infinity or NaN is refused by tensor and row, whatever its type") {
  const TempFolder folder;
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
      for (const char* kept : {"model.norm.weight", "model.embed_tokens.weight", "model.layers.0.mlp.gate.e_score_correction_bias"}) {
        CAPTURE(dtype_name(dtype), bad, kept);
        const fs::path in = folder / "in";
        fs::remove_all(folder.path() / "in");
        fs::remove_all(folder.path() / "out");
        fs::remove_all(folder.path() / "out.scratch");
        write_text(in / "config.json", R"({"model_type": "glm4_moe"})");
        std::vector<float> values = random_values(24 * 40, kept);
        values[24 * 33] = bad;
        OutputFolder out(in);
        const bool matrix = std::string_view(kept).find("embed") != std::string_view::npos;
        SafetensorsWriter writer(out, "model.safetensors",
                                 {{kept, dtype, matrix ? std::vector<int64_t>{40, 24} : std::vector<int64_t>{24 * 40}},
                                  {"model.layers.0.mlp.experts.0.up_proj.weight", DType::bf16, {8, 24}}});
        writer.append_f32(values);
        writer.append_f32(random_values(8 * 24, "up"));
        writer.close();
        QuantizeConfig config;
        config.scheme = "int8";
        config.block_bytes = 100;  // tasks end within rows
        CHECK_THROWS_AS(quantize(config, in, folder / "out"), FormatError);
        fs::remove_all(folder.path() / "out.scratch");
        CHECK_THROWS_WITH(quantize(config, in, folder / "out"),
                          Catch::Contains(fmt::format("{} row {} holds an infinity or NaN", kept, matrix ? 33 : 24 * 33)));
      }
}
