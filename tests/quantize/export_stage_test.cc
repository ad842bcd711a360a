#include "quantize/export_stage.h"

#include <catch2/catch.hpp>

#include <cmath>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "core/parallel.h"
#include "formats/gguf.h"
#include "formats/sharded.h"
#include "quantize/quantize_stage.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const fs::path kModels = fs::path(OVERPROOF_SOURCE_DIR) / "tests" / "golden" / "decoder";

StageReport run(const ExportConfig& config, const fs::path& model, const fs::path& out) {
  fs::create_directories(out);
  Outputs outputs(out, out / "scratch");
  const Inputs inputs({{"model", {model, {}}}});
  StageReport report = run_export(config, inputs, outputs);
  const Checkpoint checkpoint = open_checkpoint(model);
  for (const fs::path& file : checkpoint.tensors->files()) {  // digested while they were read
    const auto noted = std::ranges::find(outputs.input_digests("model"), file.filename().string(), &FileRecord::name);
    REQUIRE(noted != outputs.input_digests("model").end());
    CHECK(noted->digest == sha256_file(file));
  }
  CHECK(outputs.folder().records().size() == 1);
  return report;
}

/// The golden model with one value of one tensor changed, in f32.
void copy_with(const fs::path& from, const fs::path& to, const std::string& tensor, float value) {
  fs::create_directories(to);
  fs::copy_file(from / "config.json", to / "config.json");
  const Checkpoint model = open_checkpoint(from);
  std::vector<TensorInfo> infos = model.tensors->tensors();
  for (TensorInfo& info : infos) info.dtype = DType::f32;
  OutputFolder folder(to);
  ShardedWriter writer(folder, infos);
  for (const TensorInfo& info : infos) {
    std::vector<float> values = model.tensors->read_all_f32(info.name);
    if (info.name == tensor) values[values.size() - 1] = value;
    writer.append_f32(values);
  }
  writer.close();
}

}  // namespace

TEST_CASE("models by transformers go into GGUF and come back whole") {
  const TempFolder t;
  for (const char* name : {"llama", "smollm2", "mistral", "qwen2", "qwen3", "glm4_moe", "glm4_moe_qk_norm"}) {
    CAPTURE(name);
    const StageReport report = run({.type = GgmlType::f32}, kModels / name, t.path() / name);
    CHECK(report.metrics()["type"] == "f32");
    const Checkpoint original = open_checkpoint(kModels / name), back = open_checkpoint(t.path() / name);
    size_t skipped = report.metrics()["skipped"].get<size_t>();
    for (const TensorInfo& info : original.tensors->tensors()) {
      CAPTURE(info.name);
      if (!back.tensors->find(info.name)) {
        REQUIRE(skipped-- > 0);
        continue;
      }
      CHECK(back.tensors->find(info.name)->shape == info.shape);
      CHECK(back.tensors->read_all_f32(info.name) == original.tensors->read_all_f32(info.name));
    }
    CHECK(skipped == 0);
    for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                            "intermediate_size", "tie_word_embeddings", "max_position_embeddings"}) {
      CAPTURE(key);
      if (original.config->contains(key)) CHECK((*back.config)[key] == (*original.config)[key]);
    }
    if (std::string_view(name).starts_with("glm4_moe")) {
      for (const char* key : {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts",
                              "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace"}) {
        CAPTURE(key);
        CHECK((*back.config)[key] == (*original.config)[key]);
      }
    }
  }
}

TEST_CASE("the type and the name are what was asked for") {
  const TempFolder t;
  const StageReport report = run({.type = GgmlType::bf16, .name = "tiny"}, kModels / "qwen3", t.path() / "out");
  const GgufFile file(t.path() / "out" / kGgufName);
  CHECK(file.text("general.name") == "tiny");
  CHECK(file.integer("general.file_type") == 32);
  CHECK(file.find("token_embd.weight")->type == GgmlType::bf16);
  CHECK(file.find("output_norm.weight")->type == GgmlType::f32);
  CHECK(report.metrics()["architecture"] == "qwen3");
  CHECK(report.metrics()["bytes_out"] == int64_t(file.bytes().size()));
  CHECK_THAT(report.summary.back(), Catch::Contains("ids only"));  // these folders have no tokenizer
}

TEST_CASE("neither threads nor blocks change the file") {
  const TempFolder t;
  for (const char* name : {"llama", "glm4_moe"}) {
    std::string first;
    int number = 0;
    for (const int64_t threads : {1, 3})
      for (const int64_t block : {int64_t{1} << 16, EngineOptions::kDefaultBlockBytes}) {
        set_thread_count(threads);
        const fs::path out = t.path() / (name + std::to_string(number++));
        run({.type = GgmlType::f16, .block_bytes = block}, kModels / name, out);
        const std::string bytes = read_file(out / kGgufName);
        if (first.empty()) first = bytes;
        CHECK(bytes == first);
      }
  }
  set_thread_count(0);
}

TEST_CASE("values that a type cannot hold are refused by name, and nothing is left behind") {
  const TempFolder t;
  const std::string head = "model.layers.0.self_attn.v_proj.weight";
  int number = 0;
  const auto refused = [&](float value, GgmlType type, const std::string& cause) {
    CAPTURE(value, int(type));
    const fs::path in = t.path() / std::to_string(number++), out = t.path() / std::to_string(number++);
    copy_with(kModels / "llama", in, head, value);
    CHECK_THROWS_AS(run({.type = type}, in, out), FormatError);
    CHECK_THROWS_WITH(run({.type = type}, in, out), Catch::Contains("blk.0.attn_v.weight row ") && Catch::Contains(cause));
    CHECK_FALSE(fs::exists(out / kGgufName));
  };
  refused(65520, GgmlType::f16, "holds 65520, which is too large for F16");
  refused(-0x1.ffp127f, GgmlType::bf16, "holds -3.39617753e+38, which is too large for BF16 (3.38953139e+38); use f32");
  for (const GgmlType type : {GgmlType::f16, GgmlType::bf16, GgmlType::f32}) {
    refused(HUGE_VALF, type, "an infinity or NaN");
    refused(std::nanf(""), type, "an infinity or NaN");
  }
  copy_with(kModels / "llama", t.path() / "fits", head, 65519);
  CHECK_NOTHROW(run({.type = GgmlType::f16}, t.path() / "fits", t.path() / "fitting"));

  const auto kept = [&](float value) {
    const fs::path in = t.path() / std::to_string(number++), out = t.path() / std::to_string(number++);
    copy_with(kModels / "llama", in, head, value);
    fs::create_directories(out);
    Outputs outputs(out, out / "scratch");
    run_quantize({.exclude = {"*.self_attn.*"}}, Inputs({{"model", {in, {}}}}), outputs);
  };
  CHECK_THROWS_WITH(kept(0x1.ffp127f), Catch::Contains(head + " row ") && Catch::Contains("too large for BF16 (3.38953139e+38); use f32"));
  CHECK_NOTHROW(kept(0x1.fefffep127f));
}

TEST_CASE("blocks of Q8_0 go where 32 divides the rows, and its header names the main type") {
  const TempFolder t;
  const fs::path out = t.path() / "out";
  fs::create_directories(out);
  Outputs outputs(out, t.path() / "scratch");
  run_quantize({.scheme = "q8_0"}, Inputs({{"model", {kModels / "llama", {}}}}), outputs);
  const GgufFile file(out / kGgufName);
  CHECK(file.find("blk.1.ffn_down.weight")->type == GgmlType::q8_0);  // rows of 96
  CHECK(file.find("blk.1.ffn_gate.weight")->type == GgmlType::bf16);  // rows of 48
  CHECK(file.find("token_embd.weight")->type == GgmlType::bf16);
  CHECK(file.find("blk.1.attn_norm.weight")->type == GgmlType::f32);
  CHECK(file.integer("general.quantization_version") == 2);
}
